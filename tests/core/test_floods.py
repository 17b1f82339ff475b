"""Endless lines and endless rows: refused within the bytes that decide it, though nobody ever holds so many."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat

import pytest

from core.domain import inspections
from core.domain.containers import MAX_ROW_BYTES

CHUNK = 2**16
LINE_BYTES = 2**31
LINES = 10**8
OPENINGS = {
    "jsonl": b'{"instruction": "',
    "jsonl, second line": b'{"instruction": "a", "output": "b"}\n{"instruction": "',
    "json": b'[{"instruction": "',
    "csv": b"instruction,output\n",
    "csv, quoted": b'instruction,output\n"',
    "tsv": b"instruction\toutput\n",
}
ROW = b'{"prompt":"a","completion":"b"}\n'


class Counted:
    """Chunks that count what was taken of them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.taken += len(chunk)
            yield chunk


def repeated(unit: bytes, times: int) -> Iterator[bytes]:
    """So many units, a chunk at a time, and never more than that in memory."""
    many = CHUNK // len(unit)
    return chain(repeat(unit * many, times // many), [unit * (times % many)])


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(9, wbits=31)
    yield from filter(None, map(packer.compress, chunks))
    yield packer.flush()


def plain(chunks: Iterable[bytes]) -> Iterable[bytes]:
    return chunks


@pytest.mark.parametrize("packed", [plain, gzipped])
@pytest.mark.parametrize("kind", OPENINGS)
def test_a_line_of_two_gib_is_refused_within_the_bytes_that_decide_it(
    kind: str, packed: Callable[[Iterable[bytes]], Iterable[bytes]]
) -> None:
    line = Counted(chain([OPENINGS[kind]], repeated(b"a", LINE_BYTES)))

    found = inspections.inspect(packed(line))

    assert [finding.code for finding in found.findings] == ["row_too_long"]
    # A packer hands its bytes on in pieces: 32 KiB of them are 32 MiB of the line.
    assert line.taken < (2 * MAX_ROW_BYTES + 2 * CHUNK if packed is plain else 48 * 2**20)


@pytest.mark.parametrize("packed", [plain, gzipped])
@pytest.mark.parametrize("unit", [b"{}\n", b"1\n", b"x\n"])
def test_tiny_lines_that_are_no_rows_are_refused_after_a_thousand(
    unit: bytes, packed: Callable[[Iterable[bytes]], Iterable[bytes]]
) -> None:
    lines = Counted(chain([ROW], repeated(unit, LINES)))

    found = inspections.inspect(packed(lines))

    assert found.findings[-1].code == "too_many_errors"
    assert lines.taken < (2 * CHUNK if packed is plain else 48 * 2**20)


@pytest.mark.parametrize("packed", [plain, gzipped])
def test_tiny_rows_are_refused_at_the_limit(
    packed: Callable[[Iterable[bytes]], Iterable[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspections, "MAX_ROWS", 20_000)
    rows = Counted(repeated(ROW, LINES))

    found = inspections.inspect(packed(rows))

    assert [(one.code, one.line) for one in found.findings if one.severity == "error"] == [("too_many_rows", 20_001)]
    assert rows.taken < (20_001 * len(ROW) + 2 * CHUNK if packed is plain else 48 * 2**20)


@pytest.mark.slow
def test_a_hundred_million_tiny_rows_are_refused_at_the_limit() -> None:
    rows = Counted(repeated(ROW, LINES))

    found = inspections.inspect(rows)

    told = [(one.code, one.line) for one in found.findings if one.severity == "error"]
    assert told == [("too_many_rows", inspections.MAX_ROWS + 1)]
    assert rows.taken < (inspections.MAX_ROWS + 1) * len(ROW) + 2 * CHUNK


@pytest.mark.parametrize("head", [b"", ROW])
def test_blank_lines_are_counted_and_left_out(head: bytes) -> None:
    found = inspections.inspect(chain([head], repeated(b"\n", 10**7), [b"{}"]))

    assert [(one.code, one.line) for one in found.findings] == [("unknown_format", 10**7 + 1 + head.count(b"\n"))]


@pytest.mark.parametrize("unit", [b"\n", ROW])
def test_a_bomb_of_tiny_lines_is_refused_by_its_ratio(unit: bytes) -> None:
    lines = Counted(chain([ROW], repeated(unit, LINES)))

    found = inspections.inspect(gzipped(lines))

    assert [one.code for one in found.findings if one.severity == "error"] == ["unpacks_to_too_much"]
    assert lines.taken < 64 * 2**20
