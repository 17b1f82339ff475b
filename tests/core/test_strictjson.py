"""The quick ways of reading JSON take nothing that the strict way refuses, and read it alike."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import strictjson
from core.domain.faults import BadRow

texts = st.text(st.sampled_from('ab"\\{}[],:0\n\r\t你😀'), max_size=6)
values = st.recursive(
    texts | st.integers() | st.floats() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
flat = st.dictionaries(texts, texts, max_size=3)
PIECES = (
    '{"a":"b"}', '{"a":"b","a":"c"}', '{"a":1,"a":1}', "\n", "\r\n", ",", "0", ",0,", "{", "}", "[", "]", '"', "\\",
    "\\u0000", "\\ud83d", " ", '{"a":"x', '"}', '"b":"y"}', '{"a":["x"', '"y"]}', '{"a":"x"', "false", "-0", "1e400", "1" * 33,
)  # fmt: skip
blocks = st.lists(st.sampled_from(PIECES) | flat.map(json.dumps), max_size=8).map("".join)


def strictly(raw: bytes) -> object:
    try:
        return strictjson._strictly(raw)
    except BadRow:
        return BadRow


@settings(max_examples=1500, deadline=None)
@given(blocks)
def test_a_block_that_is_read_at_once_is_what_its_lines_are(text: str) -> None:
    block = text.encode()

    rows = strictjson.plain_rows(block)

    assert rows is None or rows == [strictly(line) for line in block.split(b"\n")]


@settings(max_examples=300, deadline=None)
@given(st.lists(flat, min_size=1, max_size=5))
def test_plain_rows_are_read_at_once(rows: list[dict[str, str]]) -> None:
    assert strictjson.plain_rows(b"\n".join(json.dumps(row).encode() for row in rows)) == rows


@settings(max_examples=1000, deadline=None)
@given(values.map(json.dumps) | blocks)
def test_a_value_is_read_as_the_strict_scanner_reads_it(text: str) -> None:
    raw = text.encode()
    try:
        read = strictjson.value(raw)
    except BadRow:
        read = BadRow

    assert read == strictly(raw)
