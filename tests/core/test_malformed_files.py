"""Every way a file can be wrong that we know of, with the code, line and field its owner is told."""

import csv
import gzip
import io
import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from core.domain import inspections, strictjson
from core.domain.containers import MAX_ROW_BYTES
from core.domain.faults import BadRow
from tests.support.streams import cut

GOOD = b'{"instruction": "a", "input": "", "output": "b"}'


def row(**fields: object) -> bytes:
    return json.dumps({"instruction": "a", "input": "", "output": "b"} | fields, ensure_ascii=False).encode()


def bluelm(inputs: object, targets: object = "b") -> bytes:
    return json.dumps({"inputs": inputs, "targets": targets}, ensure_ascii=False).encode()


def chat(*said: tuple[str, str]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in said]}).encode()


def weighted(weight: str) -> bytes:
    return b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": %b}]}' % (
        weight.encode()
    )


def many_rows() -> bytes:
    return b"\n".join(row(output=f"answer {number * 7919 % 10_007}") for number in range(2000))


def parquet(columns: Mapping[str, object], *, store_schema: bool = True) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file, store_schema=store_schema)
    return file.getvalue()


def messages_with_content_twice() -> bytes:
    texts = [pa.array(["user", "assistant"]), pa.array(["a", "b"]), pa.array(["c", "d"])]
    struct = pa.StructArray.from_arrays(texts, names=["role", "content", "content"])
    return parquet({"messages": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), struct)})


LISTS: dict[str, list[str]] = {
    "prompt": ['[{"role": "user", "content": "\\""}]'],
    "completion": ['[{"from": "gpt", "value": "b"}]'],
}


def table_of_lists(delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(LISTS)
    writer.writerow([cell for [cell] in LISTS.values()])
    return file.getvalue().encode()


class Bad(NamedTuple):
    content: bytes
    code: str
    line: int | None = 1
    field: str | None = None


FILES = {
    # bytes
    "empty": Bad(b"", "empty_file", None),
    "only a BOM": Bad(b"\xef\xbb\xbf", "empty_file", None),
    "only white space": Bad(b" \n\r\n\t\n" * 300, "empty_file", None),
    "UTF-16 LE with BOM": Bad(GOOD.decode().encode("utf-16"), "utf16"),
    "UTF-16 BE with BOM": Bad(b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), "utf16"),
    "UTF-16 LE without BOM": Bad(GOOD.decode().encode("utf-16-le"), "utf16"),
    "UTF-16 BE without BOM": Bad(GOOD.decode().encode("utf-16-be"), "utf16"),
    "UTF-32": Bad(GOOD.decode().encode("utf-32"), "utf16"),
    "Latin-1": Bad(
        GOOD + b"\n" + '{"instruction": "café", "input": "", "output": "b"}'.encode("latin-1"), "invalid_utf8", 2
    ),
    "GB18030": Bad(row(instruction="你是谁").decode().encode("gb18030"), "invalid_utf8"),
    "overlong slash": Bad(GOOD.replace(b"a", b"\xc0\xaf"), "overlong_utf8"),
    "overlong in three bytes": Bad(GOOD.replace(b"a", b"\xe0\x80\xaf"), "overlong_utf8"),
    "a surrogate in UTF-8": Bad(GOOD.replace(b'"a"', b'"\xed\xa0\x80"'), "invalid_utf8"),
    "NUL early": Bad(GOOD + b"\n\0", "nul_byte", 2),
    "NUL late": Bad(b"\n".join([GOOD] * 50) + b"\n" + GOOD.replace(b"a", b"\0") + b"\n", "nul_byte", 51),
    "NUL escaped": Bad(GOOD.replace(b'"a"', b'"a\\u0000"'), "nul_byte"),
    "a BOM inside": Bad(GOOD + b"\n\xef\xbb\xbf" + GOOD, "stray_bom", 2),
    "last line cut in text": Bad(GOOD + b"\n" + GOOD[:20], "truncated", 2),
    "last line cut after a name": Bad(GOOD + b"\n" + b'{"instruction"', "truncated", 2),
    # JSON
    "trailing comma in an object": Bad(b'{"instruction": "a", "input": "", "output": "b",}', "trailing_comma"),
    "comma after a line": Bad(GOOD + b",\n" + GOOD, "malformed_json"),
    "two objects on a line": Bad(GOOD + GOOD, "malformed_json"),
    "single quotes": Bad(GOOD.replace(b'"', b"'"), "malformed_json"),
    "a comment": Bad(b"// rows\n" + GOOD, "unsupported_format"),
    "a raw line feed in text": Bad(b'{"instruction": "a\nb", "input": "", "output": "b"}\n', "malformed_json"),
    "a raw tab in text": Bad(GOOD.replace(b'"a"', b'"a\tb"'), "malformed_json"),
    "a bad escape": Bad(GOOD.replace(b'"a"', b'"\\x61"'), "malformed_json"),
    "duplicate name": Bad(
        b'{"output": "a", "instruction": "a", "input": "", "output": "b"}', "duplicate_key", 1, "output"
    ),
    "duplicate name with escapes": Bad(
        b'{"output": "\\"\\\\", "instruction": "\\\\\\"", "input": "", "output": "b"}', "duplicate_key", 1, "output"
    ),
    "duplicate name spelled with an escape": Bad(
        b'{"output": "a", "instruction": "a", "input": "", "outpu\\u0074": "b"}', "duplicate_key", 1, "output"
    ),
    "NaN": Bad(GOOD.replace(b'"a"', b"NaN"), "not_a_number"),
    "Infinity": Bad(GOOD.replace(b'"a"', b"-Infinity"), "not_a_number"),
    "1e400": Bad(GOOD.replace(b'"a"', b"1e400"), "number_out_of_range"),
    "a number of 33 digits": Bad(GOOD.replace(b'"a"', b"1" * 33), "number_too_long"),
    "a number of 10^5 digits": Bad(GOOD.replace(b'"a"', b"1" * 10**5), "number_too_long"),
    "a fraction of 10^5 digits": Bad(GOOD.replace(b'"a"', b"0." + b"1" * 10**5), "number_too_long"),
    "33 levels": Bad(GOOD.replace(b'"a"', b"[" * 32 + b"]" * 32), "too_deep"),
    "10^5 levels": Bad(GOOD.replace(b'"a"', b"[" * 10**5 + b"]" * 10**5), "too_deep"),
    "10^5 open levels": Bad(GOOD + b"\n" + b'{"a":' * 10**5 + b"}", "too_deep", 2),
    "10^5 levels in an array": Bad(b"[" * 10**5, "too_deep"),
    "half an emoji": Bad(GOOD.replace(b'"a"', b'"\\ud83d"'), "lone_surrogate"),
    "half an emoji, low": Bad(GOOD.replace(b'"a"', b'"\\udc00x"'), "lone_surrogate"),
    "half an emoji in a name": Bad(b'{"\\ud83d": "a"}', "lone_surrogate"),
    "a number as row": Bad(b"1\n2\n", "not_an_object"),
    "text as row": Bad(b'"a"\n', "not_an_object"),
    "null as row": Bad(GOOD + b"\nnull\n", "not_an_object", 2),
    "an array as row": Bad(GOOD + b'\n["a", "b"]\n', "not_an_object", 2),
    "a line over 1 MiB": Bad(GOOD + b"\n" + row(output="b" * MAX_ROW_BYTES) + b"\n" + GOOD, "row_too_long", 2),
    "an endless line": Bad(b'{"instruction": "' + b"a" * (4 * MAX_ROW_BYTES), "row_too_long"),
    # arrays
    "an empty array": Bad(b"[]", "no_rows", None),
    "an array cut short": Bad(b"[\n" + GOOD + b",\n" + GOOD[:-3], "truncated", 3),
    "an array cut between rows": Bad(b"[" + GOOD, "truncated"),
    "an array that only opens": Bad(b"[ ", "truncated"),
    "an array with a trailing comma": Bad(b"[\n" + GOOD + b",\n]", "trailing_comma", 3),
    "an array without a comma": Bad(b"[" + GOOD + b"\n" + GOOD + b"]", "malformed_json", 2),
    "an array with two commas": Bad(b"[" + GOOD + b",," + GOOD + b"]", "malformed_json"),
    "an array that goes on": Bad(b"[" + GOOD + b"]\n" + GOOD, "malformed_json", 2),
    "an array of numbers": Bad(b"[\n1,\n2]", "not_an_object", 2),
    "an array of texts": Bad(b'["a", "b"]', "not_an_object"),
    "an array in an array": Bad(b"[[" + GOOD + b"]]", "not_an_object"),
    "an array closed by a brace": Bad(b"[" + GOOD + b"}", "malformed_json"),
    "an element over 1 MiB": Bad(b"[\n" + row(output="b" * MAX_ROW_BYTES) + b"]", "row_too_long", 2),
    # fields
    "no output": Bad(b'{"instruction": "a", "input": ""}', "missing_field", 1, "output"),
    "no instruction": Bad(b'{"input": "a", "output": "b"}', "missing_field", 1, "instruction"),
    "no fields": Bad(b"{}", "unknown_format"),
    "foreign fields": Bad(b'{"question": "a", "answer": "b"}', "unknown_format"),
    "a misspelled field": Bad(b'{"instruction": "a", "input": "", "ouput": "b"}', "missing_field", 1, "output"),
    "an extra field": Bad(row(cook="7"), "unknown_field", 1, "cook"),
    "a number as text": Bad(row(output=7), "wrong_type", 1, "output"),
    "null as text": Bad(row(input=None), "wrong_type", 1, "input"),
    "a list as text": Bad(row(instruction=["a"]), "wrong_type", 1, "instruction"),
    "an empty output": Bad(row(output=""), "empty_answer", 1, "output"),
    "a blank output": Bad(row(output=" \u3000\n"), "empty_answer", 1, "output"),
    "an empty prompt": Bad(row(instruction="", input=" "), "empty_prompt", 1, "instruction"),
    "history as text": Bad(row(history="a"), "wrong_type", 1, "history"),
    "history without an answer": Bad(row(history=[["a"]]), "wrong_type", 1, "history[0]"),
    "history with a number": Bad(row(history=[["a", "b"], ["a", 1]]), "wrong_type", 1, "history[1][1]"),
    "history with a blank": Bad(row(history=[["", "b"]]), "empty_turn", 1, "history[0][0]"),
    "system as a number": Bad(row(system=1), "wrong_type", 1, "system"),
    "inputs without targets": Bad(b'{"inputs": "a"}', "missing_field", 1, "targets"),
    "blank targets": Bad(bluelm("[|Human|]:a[|AI|]:", "\n"), "empty_answer", 1, "targets"),
    "targets of only the end": Bad(bluelm("[|Human|]:a[|AI|]:", "</s>"), "empty_answer", 1, "targets"),
    "inputs of markers alone": Bad(bluelm("[|Human|]:\n[|AI|]:"), "empty_prompt", 1, "inputs"),
    "blank inputs": Bad(bluelm(" "), "empty_prompt", 1, "inputs"),
    "text before the first marker": Bad(bluelm("x[|Human|]:a[|AI|]:"), "misplaced_marker", 1, "inputs"),
    "an answer first": Bad(bluelm("[|AI|]:a[|Human|]:b[|AI|]:"), "misplaced_marker", 1, "inputs"),
    "two questions": Bad(bluelm("[|Human|]:a[|Human|]:b[|AI|]:"), "misplaced_marker", 1, "inputs"),
    "the answer in inputs": Bad(bluelm("[|Human|]:a[|AI|]:b"), "misplaced_marker", 1, "inputs"),
    # disguises
    "zip": Bad(b"PK\x03\x04" + b"x" * 100, "compressed_file"),
    "bzip2": Bad(b"BZh91AY" + b"x" * 100, "compressed_file"),
    "PDF": Bad(b"%PDF-1.7\n", "binary_file"),
    "pickle": Bad(b"\x80\x04\x95\0\0\0", "binary_file"),
    # messages
    "messages as text": Bad(b'{"messages": "hello"}', "wrong_type", 1, "messages"),
    "no messages": Bad(b'{"messages": []}', "no_answer", 1, "messages[0]"),
    "a message as text": Bad(b'{"messages": ["hello"]}', "wrong_type", 1, "messages[0]"),
    "an unknown role": Bad(chat(("user", "a"), ("narrator", "b")), "unknown_role", 1, "messages[1].role"),
    "a tool's message": Bad(chat(("user", "a"), ("tool", "b")), "unsupported_content", 1, "messages[1].role"),
    "a tool call": Bad(
        b'{"messages": [{"role": "assistant", "content": "b", "tool_calls": [{"id": "1"}]}]}',
        "unsupported_content",
        1,
        "messages[0].tool_calls",
    ),
    "a call of a tool without content": Bad(
        b'{"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}',
        "unsupported_content",
        1,
        "messages[0].tool_calls",
    ),
    "tools": Bad(b'{"messages": [], "tools": [{"type": "function"}]}', "unsupported_content", 1, "tools"),
    "an image": Bad(
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
        "unsupported_content",
        1,
        "messages[0].content[0]",
    ),
    "content null": Bad(b'{"messages": [{"role": "user", "content": null}]}', "wrong_type", 1, "messages[0].content"),
    "no content": Bad(b'{"messages": [{"role": "user"}]}', "missing_field", 1, "messages[0].content"),
    "an unknown field in a message": Bad(
        b'{"messages": [{"role": "user", "content": "a", "mood": "b"}]}', "unknown_field", 1, "messages[0].mood"
    ),
    "an answer first of all": Bad(chat(("assistant", "a"), ("user", "b")), "misplaced_role", 1, "messages[0]"),
    "system in the middle": Bad(
        chat(("user", "a"), ("system", "b"), ("assistant", "c")), "misplaced_role", 1, "messages[1]"
    ),
    "two users": Bad(chat(("user", "a"), ("user", "b")), "misplaced_role", 1, "messages[1]"),
    "two system texts": Bad(
        b'{"system": "s", "conversations": [{"from": "system", "value": "t"}]}', "misplaced_role", 1, "conversations[0]"
    ),
    "no answer at the end": Bad(chat(("user", "a"), ("assistant", "b"), ("user", "c")), "no_answer", 1, "messages[2]"),
    "a blank last answer": Bad(chat(("user", "a"), ("assistant", " ")), "empty_answer", 1, "messages[1]"),
    "a blank question": Bad(chat(("user", ""), ("assistant", "b")), "empty_turn", 1, "messages[0]"),
    "weight 0.5": Bad(weighted("0.5"), "invalid_weight", 1, "messages[1].weight"),
    "weight as text": Bad(weighted('"1"'), "invalid_weight", 1, "messages[1].weight"),
    "weight as list": Bad(weighted("[]"), "invalid_weight", 1, "messages[1].weight"),
    "weight true": Bad(weighted("true"), "invalid_weight", 1, "messages[1].weight"),
    "all weights 0": Bad(weighted("0"), "nothing_to_learn", 1, "messages[1]"),
    "a duplicate name in a message": Bad(
        b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "duplicate_key", 1, "content"
    ),
    "prompt as list, completion as text": Bad(b'{"prompt": [], "completion": "b"}', "wrong_type", 1, "prompt"),
    "a blank completion": Bad(b'{"prompt": "a", "completion": " "}', "empty_answer", 1, "completion"),
    # tables
    "CSV without a column": Bad(b"instruction,input\na,b\n", "missing_field", 1, "output"),
    "CSV with a foreign column": Bad(b"instruction,output,zzz\na,b,c\n", "unknown_field", 1, "zzz"),
    "CSV with a column twice": Bad(b"instruction,output,output\na,b,c\n", "duplicate_key", 1, "output"),
    "CSV with semicolons": Bad(b"instruction;input;output\na;b;c\n", "unsupported_delimiter"),
    "CSV with known words nowhere": Bad(b"question,answer\na,b\n", "unsupported_format"),
    "CSV of a header alone": Bad(b"instruction,output\n", "no_rows", None),
    "CSV with too few cells": Bad(b'instruction,output\n"a\nb",c\nd\n', "wrong_width", 4),
    "CSV with too many cells": Bad(b"instruction,output\na,b,c\n", "wrong_width", 2),
    "CSV that ends in quotation marks": Bad(b'instruction,output\na,"b\n\n', "truncated", 2),
    "CSV with text after quotation marks": Bad(b'instruction,output\na,"b"c\n', "malformed_csv", 2),
    "CSV with old Mac line ends": Bad(b"instruction,output\na,b\rc,d\n", "malformed_csv", 2),
    "CSV with NUL": Bad(b"instruction,output\n" + b"a,b\n" * 200 + b"a,\0\n", "nul_byte", 202),
    "CSV in GB18030": Bad("instruction,output\n你,我\n".encode("gb18030"), "invalid_utf8", 2),
    "CSV with an endless cell": Bad(b'instruction,output\na,"' + b"b\n" * 2**20, "row_too_long", 2),
    "CSV with a list that is no JSON": Bad(b"messages\n\"[{'role': 'user'}]\"\n", "malformed_json", 2, "messages"),
    "CSV with lists of messages for texts": Bad(table_of_lists(","), "list_in_text", 2, "prompt"),
    "TSV with lists of messages for texts": Bad(table_of_lists("\t"), "list_in_text", 2, "prompt"),
    "TSV with a blank answer": Bad(b"instruction\toutput\na\t \n", "empty_answer", 2, "output"),
    # compressions
    "gzip of garbage": Bad(b"\x1f\x8b\x08\0\0\0\0\0\0\0" + b"\xff" * 100, "damaged_archive", None),
    "gzip of rows cut short": Bad(gzip.compress(many_rows())[:-9], "truncated", None),
    "gzip with garbage behind": Bad(gzip.compress(GOOD) + b"garbage", "damaged_archive", None),
    "gzip in gzip": Bad(gzip.compress(gzip.compress(GOOD)), "nested_compression"),
    "gzip of a bad row": Bad(gzip.compress(GOOD + b"\n{}\n"), "unknown_format", 2),
    "a gzip bomb": Bad(gzip.compress((GOOD + b"\n") * 800_000, 9), "unpacks_to_too_much", None),
    "zstd of garbage": Bad(b"\x28\xb5\x2f\xfd" + b"x" * 100, "damaged_archive", None),
    "zstd cut short": Bad(zstd.compress(many_rows())[:-9], "truncated", None),
    "zstd with garbage behind": Bad(zstd.compress(GOOD) + b"garbage", "damaged_archive", None),
    "zstd in gzip": Bad(gzip.compress(zstd.compress(GOOD)), "nested_compression"),
    "a zstd bomb": Bad(zstd.compress((GOOD + b"\n") * 800_000), "unpacks_to_too_much", None),
    # Parquet
    "Parquet without a footer": Bad(b"PAR1" + b"\0" * 100, "truncated", None),
    "Parquet cut short": Bad(parquet({"instruction": ["a"], "output": ["b"]})[:-20], "truncated", None),
    "Parquet with a broken footer": Bad(b"PAR1" + b"x" * 100 + b"\x10\0\0\0PAR1", "damaged_parquet", None),
    "Parquet, encrypted": Bad(b"PAR1" + b"\xff" * 20 + b"\x08\0\0\0PARE", "encrypted_file", None),
    "Parquet with binary": Bad(
        parquet({"instruction": [b"a"], "output": ["b"]}), "unsupported_column", 1, "instruction"
    ),
    "Parquet with two fields of a name in a struct": Bad(messages_with_content_twice(), "duplicate_key", 1, "messages"),
    "Parquet with a column whose name is no UTF-8": Bad(
        parquet({"instruction": ["a"], "output": ["b"]}, store_schema=False).replace(b"output", b"\xff\xfeeput"),
        "damaged_parquet",
        None,
    ),
    "Parquet with a decimal": Bad(
        parquet({"instruction": [Decimal("1.5")], "output": ["b"]}), "unsupported_column", 1, "instruction"
    ),
    "Parquet with lists of messages for texts": Bad(parquet(LISTS), "list_in_text", 1, "prompt"),
    "Parquet with numbers": Bad(parquet({"instruction": [1, 2], "output": ["b", "c"]}), "wrong_type", 1, "instruction"),
    "Parquet without a column": Bad(parquet({"instruction": ["a"]}), "missing_field", 1, "output"),
    "Parquet with a null": Bad(
        parquet({"instruction": ["a", "a"], "output": ["b", None]}), "missing_field", 2, "output"
    ),
    "Parquet with NUL": Bad(parquet({"instruction": ["a", "\0"], "output": ["b", "b"]}), "nul_byte", 2),
    "Parquet with a long row": Bad(
        parquet({"instruction": ["a", "a" * (MAX_ROW_BYTES + 1)], "output": ["b", "b"]}), "row_too_long", 2
    ),
    "Parquet without rows": Bad(
        parquet({"instruction": pa.array([], pa.string()), "output": pa.array([], pa.string())}), "no_rows", None
    ),
    "HTML": Bad(b"\n<html>", "unsupported_format", 2),
}


def test_the_table_is_as_long_as_promised() -> None:
    assert len(FILES) >= 60


@pytest.mark.parametrize("size", [1 << 18, 7])
@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_refused_by_code_and_line(name: str, size: int) -> None:
    bad = FILES[name]
    if size < 100 and len(bad.content) > 10**6:
        size = 4096

    found = inspections.inspect(cut(bad.content, size))

    assert not found.is_acceptable
    first = found.findings[0]
    assert (first.code, first.line, first.field) == (bad.code, bad.line, bad.field)
    assert first.severity == "error"
    assert first.message.endswith(".")
    assert first.hint
    assert len(first.message) < 300


def test_a_repeated_name_is_found_at_once_among_many() -> None:
    members = ",".join(f'"{n}":""' for n in range(60_000))
    began = time.monotonic()
    with pytest.raises(BadRow) as refused:
        strictjson.loads(f'{{{members},"59999":""}}'.encode())
    assert (refused.value.findings[0].code, refused.value.findings[0].field) == ("duplicate_key", "59999")
    assert time.monotonic() - began < 5
