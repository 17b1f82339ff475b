import json
import tracemalloc
from collections.abc import Iterator
from itertools import repeat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain import formats, inspections, lengths
from core.domain.datasets import MAX_FINDINGS, Lengths, Summary
from tests.support.streams import cut

GOOD = b'{"instruction": "a", "input": "", "output": "b"}\n'


def test_the_summary_counts_what_is_there() -> None:
    content = json.dumps(
        [
            {"instruction": "你好", "input": "吗", "output": "好"},
            {"instruction": "c", "input": "", "output": "dd", "history": [["e", "f"]], "system": "ss"},
        ]
    ).encode()

    found = inspections.inspect([content])

    assert found.summary == Summary(
        format="alpaca",
        container="json",
        rows=2,
        turns=7,
        prompt_characters=3 + 5,
        answer_characters=1 + 2,
        longest_row_characters=7,
        duplicates=0,
        columns=("instruction", "input", "output", "history", "system"),
        formats={"alpaca": 2},
        lengths=Lengths(unit="characters", up_to=lengths.BOUNDS, rows=(2, *[0] * len(lengths.BOUNDS))),
        prompts=2,
        compared_rows=2,
        empty_inputs=1,
        scripts={"Latin": 0.6364, "Han": 0.3636},
        is_splittable=True,
        warnings=1,
    )
    assert [finding.code for finding in found.findings] == ["empty_inputs"]


def test_duplicates_are_counted_across_formats_and_warned_of() -> None:
    other = b'{"inputs": "[|Human|]:a[|AI|]:", "targets": "b"}\n'

    found = inspections.inspect([GOOD * 50, other])

    assert found.is_acceptable
    assert found.summary.duplicates == 50
    assert {finding.code for finding in found.findings} == {"duplicate_rows", "mixed_formats"}
    assert (found.summary.format, found.summary.formats) == ("mixed", {"alpaca": 50, "bluelm": 1})
    assert found.summary.warnings == 2


@pytest.mark.parametrize("text", ["x[|AI|]:y", "</s>", "[SEH]", "<pad>"])
def test_control_tokens_in_text_are_a_warning(text: str) -> None:
    found = inspections.inspect([json.dumps({"instruction": "q", "input": "", "output": text}).encode()])

    assert found.is_acceptable
    [warning] = found.findings
    assert (warning.severity, warning.code, warning.line) == ("warning", "control_token_in_text", 1)


def test_odd_but_honest_text_is_data() -> None:
    odd = "\u202eright to left\u2028next\x1b[31mred\x7f\ufeff\U0001f469\u200d\U0001f680 <b>[1]"
    content = json.dumps({"instruction": odd, "input": "", "output": odd}, ensure_ascii=False).encode()

    found = inspections.inspect([b"\xef\xbb\xbf" + content.replace(b"\\u001b", b"\\u001B") + b"\r\n"])

    assert found.is_acceptable
    assert [finding.code for finding in found.findings] == ["invisible_characters", "control_characters"]
    assert found.summary.rows == 1


def test_findings_are_capped_and_counted() -> None:
    found = inspections.inspect([(GOOD + b"{}\n") * 300])

    assert len(found.findings) == MAX_FINDINGS
    assert found.summary.errors == 300
    assert found.summary.rows == 300
    assert [finding.line for finding in found.findings[:3]] == [2, 4, 6]


def test_reading_stops_after_a_thousand_faults() -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for chunk in repeat(b"{}\n" * 10):
            read += 1
            yield chunk

    found = inspections.inspect(endless())

    assert read < 200
    assert len(found.findings) == MAX_FINDINGS
    assert found.findings[-1].code == "too_many_errors"
    assert found.findings[-1].line == inspections.MAX_ERRORS


def test_a_disguise_is_refused_at_its_first_bytes() -> None:
    def archive() -> Iterator[bytes]:
        yield b"PK\x03\x04" + b"\0" * 1000
        pytest.fail("read on after the decision")

    assert inspections.inspect(archive()).findings[0].code == "compressed_file"


def test_rows_of_an_array_are_named_by_number() -> None:
    found = inspections.inspect([b'[{"instruction": "a", "output": "b"}, {"instruction": "a"}, 5]'])

    assert [finding.message.partition(":")[0] for finding in found.findings] == ["Row 2", "Row 3"]
    assert {finding.line for finding in found.findings} == {1}


def test_a_parquet_stream_is_copied_to_disk_not_to_memory() -> None:
    pieces = (b"PAR1" + bytes(2**18 - 4) for _ in range(4 * 64))
    tracemalloc.start()
    try:
        refused = inspections.inspect(pieces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [finding.code for finding in refused.findings] == ["truncated"]
    assert peak < 32 * 2**20  # of 64 that came; copies up to 8 stay in memory, and twice that as they grow


def test_one_bad_row_does_not_hide_the_next() -> None:
    content = (
        b'{"instruction": "a", "input": 1, "output": 2}\n\xff\n' + GOOD + b'{"instruction": "a", "outputs": "b"}\n'
    )

    found = inspections.inspect(cut(content, 5))

    told = [(finding.line, finding.code, finding.field) for finding in found.findings]
    assert told == [
        (1, "wrong_type", "input"),
        (1, "wrong_type", "output"),
        (2, "invalid_utf8", None),
        (4, "missing_field", "output"),
        (4, "unknown_field", "outputs"),
    ]
    assert found.findings[-1].hint == "Did you mean output?"


SEEDS = (
    GOOD * 3,
    b'[{"instruction": "a", "input": "\\"[", "output": "b", "history": [["c", "d"]]},\n{"inputs": "[|Human|]:a", "targets": "b"}]',
)
SPICES = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\n",
    b"\0",
    b"\xff",
    b"\xc0",
    b"\xef\xbb\xbf",
    b"1e999",
    b"NaN",
    b"\\ud800",
    b"",
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_bytes_whatever_bring_the_inspection_down(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS) | st.binary(max_size=200)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 5))] = data.draw(st.sampled_from(SPICES) | st.binary(max_size=3))

    whole = inspections.inspect([bytes(content)])
    in_bytes = inspections.inspect(cut(bytes(content), 1))

    assert whole == in_bytes
    assert whole.is_acceptable == (whole.summary.errors == 0)
    if whole.is_acceptable:
        rows = list(formats.parse([bytes(content)]))
        assert len(rows) == whole.summary.rows > 0
        assert all(turn.content.encode() for row in rows for turn in row.turns)


def test_a_row_with_a_hundred_thousand_names_is_refused_quickly() -> None:
    content = json.dumps({f"instruction{number}": "" for number in range(40_000)}).encode()

    found = inspections.inspect([content])

    assert found.findings[0].code == "unknown_format"
