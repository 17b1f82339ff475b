"""Rows of a data set as people look at them: numbered, parsed, perhaps rendered; and where the next page begins."""

import re
from dataclasses import dataclass
from typing import Final, Self

from core.domain.datasets import Turn
from core.domain.pages import UnknownCursor
from core.domain.plans import Piece, Tokens
from core.errors import Finding, Invalid

_CURSOR: Final = re.compile(r"(?:row_)?([0-9]{1,12})(?:_([0-9]{1,12})_([0-9]{1,15}))?")


class PageTooDeep(Invalid):
    """The page lies so far into the file that finding it takes longer than a request may."""

    code = "page_too_deep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The end of a row: its number, and in plain JSONL the line and byte after which the file goes on.

    Rows and lines count from 1; `offset` 0 means that the file must be read from its start.
    """

    row: int = 0
    line: int = 0
    offset: int = 0

    @classmethod
    def read(cls, cursor: str | None) -> Self:
        """Read a cursor: the id of a row, or a row's number alone.

        Raises:
            UnknownCursor: It is neither.
        """
        if cursor is None:
            return cls()
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            what = f"after is {cursor[:60]!r}; it takes the id of the last row seen, or its number."
            finding = Finding(code=UnknownCursor.code, message=what, field="after")
            raise UnknownCursor(what, param="after", findings=(finding,))
        row, line, offset = (int(group or 0) for group in found.groups())
        return cls(row=row, line=line, offset=offset)

    @property
    def cursor(self) -> str:
        """Write it down."""
        return f"row_{self.row}" + (f"_{self.line}_{self.offset}" if self.offset else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A row as a base reads it; `problem` says why it can't be, and there is nothing else then."""

    tokens: Tokens | None
    pieces: tuple[Piece, ...]
    omitted: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One row. `end` is where it ends; `rendered` is there if it was asked for."""

    line: int
    turns: tuple[Turn, ...]
    end: Place
    rendered: Rendered | None = None
