"""Rows of a data set as people look at them: numbered, parsed, perhaps rendered; and where the next page begins."""

import re
from dataclasses import dataclass
from typing import Final, Self

from core.domain.datasets import Conversation, Turn
from core.domain.pages import UnknownCursor
from core.domain.plans import Piece, Tokens
from core.errors import Finding, Invalid

TURN_CHARACTERS: Final = 50
"""So much does a turn count on a page beside its text; in JSON it takes about that without any."""
MAX_TURNS: Final = 20_000
"""A row of more is on no page."""
_CURSOR: Final = re.compile(r"(?:row_)?([0-9]{1,12})(?:_([0-9]{1,12})_([0-9]{1,15}))?")


class PageTooDeep(Invalid):
    """The page lies so far into the file that finding it takes longer than a request may."""

    code = "page_too_deep"


class TooManyTurns(Invalid):
    """The next row has more turns than are shown."""

    code = "too_many_turns"


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


class Room:
    """What a page still takes: so many rows, and so many characters. The row that goes over these is its last."""

    def __init__(self, *, rows: int, characters: int) -> None:
        self._rows = rows
        self._characters = characters

    def takes(self, row: Conversation) -> bool:
        """Find room for the next row; where there is none, the page ends before it."""
        if not self._rows or self._characters < 0 or len(row.turns) > MAX_TURNS:
            return False
        self._rows -= 1
        self._characters -= sum(TURN_CHARACTERS + len(turn.content) for turn in row.turns)
        return True


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
