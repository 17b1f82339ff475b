"""A data set's bytes to conversations: the one parser, for validation, plans and training alike."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from core.domain import containers, rows, strictjson
from core.domain.containers import Raw
from core.domain.datasets import Conversation, InvalidDataset, Turn
from core.domain.faults import BadFile, BadRow
from core.errors import Finding

READ_BYTES: Final = 2**18


Sample = tuple[tuple[str, ...], tuple[Turn, ...]]
"""One row as read: the names of its fields, and its turns."""


def sample(raw: Raw) -> Sample:
    """Read one raw row.

    Raises:
        BadRow: It is no row of a known format; findings have no line yet.
    """
    row = raw if type(raw) is dict else _read(raw)
    fields = tuple(row)
    return fields, rows.format_of(fields).read(row)


def _read(raw: Raw) -> dict[str, object]:
    if isinstance(raw, BadRow):
        raise raw
    return raw if isinstance(raw, dict) else strictjson.loads(raw)


def parse(chunks: Iterable[bytes]) -> Iterator[Conversation]:
    """Read conversations, holding a few rows and one chunk in memory.

    Raises:
        InvalidDataset: At the first fault; data sets that passed `inspections.inspect` have none.
    """
    yield from _parsed(chunks, None)


def parse_file(path: Path) -> Iterator[Conversation]:
    """Read conversations from a local file; raises as `parse` does."""
    with path.open("rb") as file:
        yield from parse_open(file)


def parse_open(file: BinaryIO, *, after: int = 0) -> Iterator[Conversation]:
    """Read conversations from a file that can be read in any order; of Parquet's, those after a row's number.

    Some before it may come too. Raises as `parse` does.
    """
    yield from _parsed(iter(lambda: file.read(READ_BYTES), b""), file, after=after)


def _parsed(chunks: Iterable[bytes], file: BinaryIO | None, *, after: int = 0) -> Iterator[Conversation]:
    try:
        for line, raw in containers.open_rows(chunks, file=file, after=after).rows:
            try:
                turns = sample(raw)[1]
            except BadRow as bad:
                raise BadFile(replace(bad.findings[0], line=line)) from bad
            yield Conversation(turns, line)
    except BadFile as bad:
        raise _refused(bad.finding) from bad


def _refused(finding: Finding) -> InvalidDataset:
    where = f"Line {finding.line}: " if finding.line else ""
    return InvalidDataset(where + finding.message, param="file", findings=(finding,))
