"""Data sets written in every format, container and compression, as other people's tools write them."""

import csv
import gzip
import io
import json
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

from core.domain.datasets import Turn

Row = dict[str, Any]
Rows = Sequence[Row]
Turns = tuple[Turn, ...]


def as_alpaca(turns: Turns, dice: random.Random) -> Row:
    row: Row = {}
    if turns[0].role == "system":
        row["system"], turns = turns[0].content, turns[1:]
    prompt, cut_at = turns[-2].content, dice.randrange(len(turns[-2].content) + 1)
    row |= {"instruction": prompt[:cut_at], "input": prompt[cut_at:], "output": turns[-1].content}
    if len(turns) > 2:
        row["history"] = [[turns[at].content, turns[at + 1].content] for at in range(0, len(turns) - 2, 2)]
    names = list(row)
    dice.shuffle(names)
    return {name: row[name] for name in names}


def as_bluelm(turns: Turns, dice: random.Random) -> Row:
    parts = []
    for turn in turns[:-1]:
        space = dice.choice(["", "\n", " "])
        end = dice.choice(["", "</s>"]) if turn.role == "assistant" else ""
        marker = "[|Human|]:" if turn.role == "user" else "[|AI|]:"
        parts.append(marker + space + turn.content + space + end)
    return {"inputs": "".join(parts) + dice.choice(["[|AI|]:", "\n[|AI|]:"]), "targets": turns[-1].content}


def as_messages(turns: Turns, dice: random.Random) -> list[Row]:
    listed = []
    for turn in turns:
        role = dice.choice(["system", "developer"]) if turn.role == "system" else turn.role
        message: Row = {"role": role, "content": turn.content}
        if turn.role == "assistant" and (turn.weight == 0 or dice.random() < 0.3):
            message["weight"] = int(turn.weight)
        listed.append(message)
    return listed


def as_openai(turns: Turns, dice: random.Random) -> Row:
    return {"messages": as_messages(turns, dice)}


def as_openai_parts(turns: Turns, dice: random.Random) -> Row:
    listed = as_messages(turns, dice)
    for message in listed:
        text = message["content"]
        at = dice.randrange(len(text) + 1)
        message["content"] = [{"type": "text", "text": text[:at]}, {"type": "text", "text": text[at:]}]
    return {"messages": listed}


def as_sharegpt(turns: Turns, dice: random.Random) -> Row:
    row: Row = {}
    if turns[0].role == "system" and dice.random() < 0.5:
        row["system"], turns = turns[0].content, turns[1:]
    names = {"system": ["system"], "user": ["human", "user"], "assistant": ["gpt", "assistant", "chatgpt"]}
    row["conversations"] = [
        {"from": dice.choice(names[turn.role]), "value": turn.content}
        | ({"weight": int(turn.weight)} if turn.role == "assistant" and turn.weight == 0 else {})
        for turn in turns
    ]
    return row


def as_completion(turns: Turns, dice: random.Random) -> Row:
    head = {"system": turns[0].content} if turns[0].role == "system" else {}
    return head | {"prompt": turns[-2].content, "completion": turns[-1].content}


def as_completion_lists(turns: Turns, dice: random.Random) -> Row:
    learnt = next(place for place, turn in enumerate(turns) if turn.role == "assistant" and turn.weight)
    listed = [{"role": turn.role, "content": turn.content} for turn in turns]
    return {"prompt": listed[:learnt], "completion": listed[learnt:]}


ROWS: Final[Mapping[str, Callable[[Turns, random.Random], Row]]] = {
    "alpaca": as_alpaca,
    "bluelm": as_bluelm,
    "openai": as_openai,
    "openai, in parts": as_openai_parts,
    "sharegpt": as_sharegpt,
    "prompt_completion": as_completion,
    "prompt_completion, of lists": as_completion_lists,
}


def jsonl(rows: Rows, dice: random.Random) -> bytes:
    end = dice.choice([b"\n", b"\r\n", b"\n\n", b" \n"])
    is_ascii = dice.random() < 0.5
    head = dice.choice([b"", b"\xef\xbb\xbf", b"\n"])
    return head + end.join(json.dumps(row, ensure_ascii=is_ascii).encode() for row in rows) + dice.choice([b"", end])


def array(rows: Rows, dice: random.Random) -> bytes:
    indent = dice.choice([None, 4])
    separators = (",", ":") if indent is None else None
    written = json.dumps(rows, ensure_ascii=dice.random() < 0.5, indent=indent, separators=separators).encode()
    return dice.choice([b"", b" ", b"\n"]) + written + dice.choice([b"", b"\n"])


def table(rows: Rows, dice: random.Random, *, delimiter: str) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    dice.shuffle(columns)
    file = io.StringIO(newline="")
    # Python 3.11 leaves a lone carriage return unquoted, which RFC 4180 does not allow.
    is_minimal = dice.random() < 0.5 and "\r" not in str(rows).replace("\\\\", "").replace("\\r", "\r")
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL if is_minimal else csv.QUOTE_ALL
    ends = dice.choice(["\n", "\r\n"])
    writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writeheader()
    writer.writerows(
        {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in row.items()
        }
        for row in rows
    )
    return dice.choice([b"", b"\xef\xbb\xbf"]) + file.getvalue().encode()


def parquet(rows: Rows, dice: random.Random) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    written = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
    for place, name in enumerate(written.column_names):
        if pa.types.is_string(written.schema.field(name).type) and dice.random() < 0.5:
            column = written.column(name)
            changed = column.dictionary_encode() if dice.random() < 0.5 else column.cast(pa.large_string())
            written = written.set_column(place, name, changed)
    file = io.BytesIO()
    codec = dice.choice(["NONE", "SNAPPY", "GZIP", "ZSTD"])
    pq.write_table(written, file, compression=codec, row_group_size=dice.choice([1, 2, 1000]))
    return file.getvalue()


CONTAINERS: Final[Mapping[str, Callable[[Rows, random.Random], bytes]]] = {
    "jsonl": jsonl,
    "json": array,
    "csv": lambda rows, dice: table(rows, dice, delimiter=","),
    "tsv": lambda rows, dice: table(rows, dice, delimiter="\t"),
    "parquet": parquet,
}


def gzipped(content: bytes, dice: random.Random) -> bytes:
    """One member, or several end to end, or with the zeros behind that tapes leave."""
    cut_at = dice.randrange(len(content) + 1)
    members = dice.choice([[content], [content[:cut_at], content[cut_at:]]])
    return b"".join(gzip.compress(part, mtime=0) for part in members) + dice.choice([b"", b"\0" * 100])


def zstandard(content: bytes, dice: random.Random) -> bytes:
    """One frame, or several with one to skip between them."""
    cut_at = dice.randrange(len(content) + 1)
    skipped = struct.pack("<II", 0x184D2A50, 5) + b"hello"
    whole = [zstd.compress(content)]
    return b"".join(
        dice.choice(
            [whole, [skipped, *whole], [zstd.compress(content[:cut_at]), skipped, zstd.compress(content[cut_at:])]]
        )
    )


COMPRESSIONS: Final[Mapping[str | None, Callable[[bytes, random.Random], bytes]]] = {
    None: lambda content, dice: content,
    "gzip": gzipped,
    "zstd": zstandard,
}
