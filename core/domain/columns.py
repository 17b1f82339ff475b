"""Which fields rows have: how many rows of each format and with each field, and where the first one is.

Rows are counted by their whole tuple of names, as equal ones mostly follow each other. A file may have another tuple in
each row: after so many they are added up by name, and there are only so many names that a row may have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from core.domain import rows

MAX_TUPLES: Final = 1024
Names = tuple[str, ...]


@dataclass(slots=True)
class Seen:
    """Rows of one kind: how many, and the first ones as (index, line)."""

    rows: int = 0
    first: list[tuple[int, int]] = field(default_factory=list)


class Columns:
    """All that is remembered of the fields seen so far."""

    def __init__(self) -> None:
        self._tuples: dict[Names, Seen] = {}
        self._formats: dict[str, Seen] = {}
        self._columns: dict[str, Seen] = {}
        self._unread: dict[str, Seen] = {}

    def meet(self, names: Names, index: int, line: int) -> None:
        """Take note of a row where a run of equal ones begins."""
        if names not in self._tuples:
            if len(self._tuples) == MAX_TUPLES:
                self._add_up()
            self._tuples[names] = Seen(first=[(index, line)])

    def count(self, names: Names, number: int) -> None:
        """Count rows of a tuple that was met last."""
        if number:
            self._tuples[names].rows += number

    def formats(self) -> dict[str, Seen]:
        """Rows by format, in the order of their first ones."""
        self._add_up()
        return self._formats

    def columns(self) -> dict[str, Seen]:
        """Rows by field, in the order of their first ones."""
        self._add_up()
        return self._columns

    def unread(self) -> dict[str, Seen]:
        """Rows by field, of those that nothing is made of."""
        self._add_up()
        return self._unread

    @property
    def size(self) -> int:
        """How many entries are kept."""
        return len(self._tuples) + len(self._formats) + len(self._columns) + len(self._unread)

    def _add_up(self) -> None:
        for names, seen in self._tuples.items():
            for table, name in self._kinds(names):
                table.setdefault(name, Seen(first=seen.first)).rows += seen.rows
        self._tuples.clear()

    def _kinds(self, names: Names) -> Iterator[tuple[dict[str, Seen], str]]:
        known = rows.format_of(names)
        yield self._formats, known.name
        yield from ((self._columns, name) for name in names)
        yield from ((self._unread, name) for name in sorted(known.unread.intersection(names)))
