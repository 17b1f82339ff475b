import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import formats, inspections
from core.domain.datasets import Conversation, InvalidDataset, Turn
from core.domain.rows import CONTROL
from tests.support.streams import cut

Rows = Sequence[dict[str, object]]
Write = Callable[[Rows], bytes]


def jsonl(rows: Rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def jsonl_escaped(rows: Rows) -> bytes:
    return b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in rows)


def array(rows: Rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=4).encode()


def array_on_one_line(rows: Rows) -> bytes:
    return b" " + json.dumps(rows, separators=(",", ":")).encode() + b"\n"


WRITERS: list[Write] = [jsonl, jsonl_escaped, array, array_on_one_line]

# Quotation marks, backslashes, brackets and newlines are what splitters trip over, so they come often.
texts = st.text(
    st.one_of(st.sampled_from('"\\{}[],:\n\r\t \u2028\u202e\x1b你😀'), st.characters(codec="utf-8")), max_size=40
)
said = texts.map(lambda text: text.replace("\0", "")).filter(lambda text: text.strip() != "")
plain = said.map(str.strip).filter(lambda text: not CONTROL.search(text) and text != "")
pairs = st.lists(st.tuples(plain, plain), max_size=3)


def conversation(system: str | None, history: Sequence[tuple[str, str]], prompt: str, answer: str) -> tuple[Turn, ...]:
    head = (Turn("system", system),) if system else ()
    past = tuple(turn for ask, tell in history for turn in (Turn("user", ask), Turn("assistant", tell)))
    return (*head, *past, Turn("user", prompt), Turn("assistant", answer))


alpacas = st.builds(conversation, st.none() | said, st.lists(st.tuples(said, said), max_size=2), said, said)
bluelms = st.builds(conversation, st.none(), pairs, plain, plain)


def as_alpaca(turns: tuple[Turn, ...], dice: random.Random) -> dict[str, object]:
    row: dict[str, object] = {}
    if turns[0].role == "system":
        row["system"] = turns[0].content
        turns = turns[1:]
    prompt, cut_at = turns[-2].content, dice.randrange(len(turns[-2].content) + 1)
    row |= {"instruction": prompt[:cut_at], "input": prompt[cut_at:], "output": turns[-1].content}
    if len(turns) > 2:
        row["history"] = [[turns[at].content, turns[at + 1].content] for at in range(0, len(turns) - 2, 2)]
    names = list(row)
    dice.shuffle(names)
    return {name: row[name] for name in names}


def as_bluelm(turns: tuple[Turn, ...], dice: random.Random) -> dict[str, object]:
    parts = []
    for turn in turns[:-1]:
        space = dice.choice(["", "\n", " "])
        end = dice.choice(["", "</s>"]) if turn.role == "assistant" else ""
        marker = "[|Human|]:" if turn.role == "user" else "[|AI|]:"
        parts.append(marker + space + turn.content + space + end)
    return {"inputs": "".join(parts) + dice.choice(["[|AI|]:", "\n[|AI|]:"]), "targets": turns[-1].content}


@pytest.mark.parametrize("write", WRITERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back_equal(write: Write, data: st.DataObject) -> None:
    is_alpaca = data.draw(st.booleans())
    written = data.draw(st.lists(alpacas if is_alpaca else bluelms, min_size=1, max_size=6))
    dice = random.Random(data.draw(st.integers(0, 2**16)))
    content = write([(as_alpaca if is_alpaca else as_bluelm)(turns, dice) for turns in written])
    size = data.draw(st.integers(1, len(content)))

    read = list(formats.parse(cut(content, size)))
    found = inspections.inspect(cut(content, size))

    assert [one.turns for one in read] == written
    assert found.is_acceptable
    assert (found.summary.rows, found.summary.format) == (len(written), "alpaca" if is_alpaca else "bluelm")
    assert found.summary.turns == sum(len(turns) for turns in written)


@pytest.mark.parametrize("write", WRITERS)
def test_chunks_of_any_size_give_the_same_rows(write: Write) -> None:
    content = write(
        [
            {"instruction": '说"你好"\\', "input": "{[", "output": "}]\n,"},
            {"instruction": "a", "input": "b", "output": "c", "history": [["x", "[y]"], ['\\"', "z"]]},
            {"inputs": "[|Human|]:你是谁？\n[|AI|]:", "targets": "我是蓝心"},
        ]
    )
    whole = list(formats.parse([content]))

    assert len(whole) == 3
    for size in range(1, len(content) + 1):
        assert list(formats.parse(cut(content, size))) == whole


def test_the_prompt_is_instruction_and_input_put_together_as_the_tutorial_does() -> None:
    [row] = formats.parse([b'{"instruction": "tell: ", "input": " me", "output": " yes "}'])

    assert row == Conversation((Turn("user", "tell:  me"), Turn("assistant", " yes ")), 1)


def test_lines_are_counted_in_the_users_file() -> None:
    row = b'{"instruction": "a", "input": "", "output": "b"}'

    assert [one.line for one in formats.parse([b"\n\n", row, b"\n \r\n", row, b"\n"])] == [3, 5]
    assert [one.line for one in formats.parse([b"\n[\n", row, b"\n,\n\n", row, b"\n]"])] == [3, 6]


def test_input_system_and_history_may_be_missing() -> None:
    [row] = formats.parse([b'{"output": "b", "instruction": "a", "system": " ", "history": []}'])

    assert row.turns == (Turn("user", "a"), Turn("assistant", "b"))


@pytest.mark.parametrize(
    ("inputs", "turns"),
    [
        ("[|Human|]:a[|AI|]:", [("user", "a")]),
        ("<s>[|Human|]: a \n[|AI|]:", [("user", "a")]),
        ("[|Human|]:a", [("user", "a")]),
        ("just a question", [("user", "just a question")]),
        ("[|Human|]:a[|AI|]:b</s>[|Human|]:c[|AI|]:", [("user", "a"), ("assistant", "b"), ("user", "c")]),
        ("[|Human|]:a\n[|AI|]:b\n[|Human|]:c", [("user", "a"), ("assistant", "b"), ("user", "c")]),
    ],
)
def test_role_markers_are_taken_out_once(inputs: str, turns: list[tuple[str, str]]) -> None:
    [row] = formats.parse([jsonl([{"inputs": inputs, "targets": "t"}])])

    assert [(turn.role, turn.content) for turn in row.turns] == [*turns, ("assistant", "t")]


def test_a_fault_ends_parsing_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')

    rows = formats.parse_file(path)

    assert next(rows).line == 1
    with pytest.raises(InvalidDataset, match="Line 2: The row has no output") as caught:
        next(rows)
    assert caught.value.findings[0].code == "missing_field"
