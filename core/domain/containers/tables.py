"""CSV and TSV with a header, as RFC 4180 has them: quotation marks double inside quoted cells, which may hold line feeds."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from core.domain import rows as formats_of_rows
from core.domain import strictjson
from core.domain.containers import blocks, cells
from core.domain.containers.raw import MAX_ROW_BYTES, Raw, RawRow, cut, too_long
from core.domain.faults import BadFile, BadRow, shown
from core.errors import Finding

_DELIMITERS: Final[dict[Literal["csv", "tsv"], str]] = {"csv": ",", "tsv": "\t"}
_KNOWN: Final = frozenset(name for known in formats_of_rows.FORMATS for name in known.fields)


@dataclass(frozen=True, slots=True)
class Header:
    """A table's first line: which kind of table, and its columns."""

    container: Literal["csv", "tsv"]
    names: tuple[str, ...]


def header_of(text: bytes, line: int) -> Header | None:
    """Read a table's header from the file's first line; None if it names no field that is known.

    Raises:
        BadFile: It does name one, but the table can't be read.
    """
    first = text.partition(b"\n")[0].rstrip(b"\r").decode("utf-8", "replace")
    for container, delimiter in _DELIMITERS.items():
        names = _split(first, delimiter)
        if _KNOWN.intersection(names):
            cells.check_columns(names, line)
            return Header(container, names)
    if _KNOWN.intersection(_split(first, ";")):
        raise BadFile(
            Finding(
                code="unsupported_delimiter",
                message="The header's columns are parted by semicolons.",
                line=line,
                hint="Export with commas (CSV) or tabs (TSV).",
            )
        )
    return None


def rows(chunks: Iterator[bytes], header: Header, line: int) -> Iterator[RawRow]:
    """Give every row below the header; a row's line is the one where it begins.

    Raises:
        BadFile: A row is too long, or the file ends inside a quoted cell.
    """
    lines = _Lines(chunks, line)
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(lines, delimiter=_DELIMITERS[header.container], strict=True)
    next(reader)
    while True:
        begin = lines.begin_row()
        try:
            found = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield begin, _refused(error, begin, at_end=lines.is_over)
        except BadRow as bad:
            yield begin, bad
        else:
            if found:
                yield begin, _row(found, header)


def _row(found: list[str], header: Header) -> Raw:
    if len(found) != len(header.names):
        return BadRow(
            Finding(
                code="wrong_width",
                message=f"The row has {len(found)} cells; the header names {len(header.names)}.",
                hint='Put cells with commas, quotation marks or line feeds in quotation marks, and write " as "".',
            )
        )
    return cells.row(dict(zip(header.names, found, strict=True)))


def _split(line: str, delimiter: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip() for name in next(csv.reader([line], delimiter=delimiter), ()))
    except csv.Error:
        return ()


def _refused(error: csv.Error, line: int, *, at_end: bool) -> BadRow:
    if at_end and "unexpected end" in str(error):
        raise BadFile(cut(line)) from None
    if "field larger" in str(error):
        raise BadFile(too_long(line)) from None
    return BadRow(
        Finding(
            code="malformed_csv",
            message=f"The row is not CSV: {shown(str(error), at_most=100)}.",
            hint='Put cells with commas, quotation marks or line feeds in quotation marks, and write " as "".',
        )
    )


class _Lines:
    """Lines as text, counted, each with its line feed. A row may have several."""

    def __init__(self, chunks: Iterator[bytes], line: int) -> None:
        self._lines = self._read(chunks)
        self._at = line
        self._row_at = line
        self._row_bytes = 0
        self.is_over = False

    def begin_row(self) -> int:
        """Begin a row; gives its line."""
        self._row_at, self._row_bytes = self._at, 0
        return self._row_at

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = next(self._lines, None)
        if raw is None:
            self.is_over = True
            raise StopIteration
        self._at += 1
        return strictjson.decoded(raw)

    def _read(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks.of_lines(chunks):
            if block.is_too_long:
                raise BadFile(too_long(self._row_at))
            lines = block.content.split(b"\n")
            ending = lines.pop() if block.is_last else b""
            for line in lines:
                yield self._counted(line + b"\n")
            if ending:
                yield self._counted(ending)

    def _counted(self, line: bytes) -> bytes:
        self._row_bytes += len(line)
        if self._row_bytes > MAX_ROW_BYTES:
            raise BadFile(too_long(self._row_at))
        return line
