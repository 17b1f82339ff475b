"""The process that finds a page of a file that is read in any order: it asks for bytes, and says what they hold.

`python -m core.services.paging PARENT_PID MEMORY_BYTES CPU_SECONDS FILE_BYTES`. The first line of stdin is a Request.
Each line of stdout but the last is an Ask, which is answered by so many bytes on stdin; the last is a Leaf or a Refusal.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter
from typing_extensions import Buffer, override

from core.domain import formats
from core.domain.datasets import Conversation, InvalidDataset
from core.domain.excerpts import Room
from core.errors import Finding
from core.services import confinement

ASK_BYTES: Final = 2**20
BUFFER_BYTES: Final = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A file of `size` bytes, and which rows are wanted: `limit` after row `after`, fewer if they are long."""

    size: int
    after: int
    limit: int
    characters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Send bytes of the file, at most ASK_BYTES."""

    at: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """The rows; `line` is a row's number. None, and more behind: the next row has too many turns."""

    rows: tuple[Conversation, ...]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there are none. Without findings, because it takes more memory than there is."""

    detail: str
    findings: tuple[Finding, ...] = ()


REQUEST: Final = TypeAdapter(Request)
SAID: Final[TypeAdapter[Ask | Leaf | Refusal]] = TypeAdapter(Ask | Leaf | Refusal)


def main() -> None:
    """Find the page that stdin asks for."""
    confinement.enter()
    request = REQUEST.validate_json(confinement.first_line())
    try:
        file = io.BufferedReader(_Asked(request.size), BUFFER_BYTES)
        said: Leaf | Refusal = leaf(formats.parse_open(file, after=request.after), request)
    except InvalidDataset as problem:
        said = Refusal(detail=problem.detail, findings=problem.findings)
    except (MemoryError, RecursionError):
        said = Refusal(detail="Looking at these rows takes more memory than it may.")
    _say(said)


def leaf(conversations: Iterator[Conversation], request: Request) -> Leaf:
    """Take the page out of a file's rows."""
    found: list[Conversation] = []
    room = Room(rows=request.limit, characters=request.characters)
    for one in conversations:
        if one.line <= request.after:
            continue
        if not room.takes(one):
            return Leaf(rows=tuple(found), has_more=True)
        found.append(one)
    return Leaf(rows=tuple(found), has_more=False)


class _Asked(io.RawIOBase):
    """The file, a range at a time, from whoever started us."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._at

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    @override
    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        size = min(len(view), ASK_BYTES, max(self._size - self._at, 0))
        if size:
            _say(Ask(at=self._at, size=size))
        filled = 0
        while filled < size:
            filled += (got := os.readv(0, [view[filled:size]]))
            if not got:
                raise SystemExit("nobody answers")
        self._at += size
        return size


def _say(what: Ask | Leaf | Refusal) -> None:
    confinement.report(SAID.dump_json(what).decode())


if __name__ == "__main__":
    main()
