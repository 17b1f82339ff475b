"""Chunks to blocks of whole lines."""

from collections.abc import Iterator
from typing import NamedTuple

from core.domain.containers.raw import MAX_ROW_BYTES


class Block(NamedTuple):
    """Whole lines without the last one's line feed, or the beginning of a line that is too long."""

    content: bytes
    is_last: bool
    is_too_long: bool = False


def of_lines(chunks: Iterator[bytes]) -> Iterator[Block]:
    """Cut a file into blocks, each about as long as a chunk. Nothing follows a line longer than MAX_ROW_BYTES."""
    tail: list[bytes] = []
    waiting = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n")
        if end >= 0:
            tail.append(chunk[:end])
            content = b"".join(tail)
            if len(content) > MAX_ROW_BYTES and (fine := _lines_before_a_long_one(content)) is not None:
                yield from fine
                return
            yield Block(content, is_last=False)
            tail.clear()
            waiting = 0
        tail.append(chunk[end + 1 :])
        waiting += len(chunk) - end - 1
        if waiting > MAX_ROW_BYTES:
            yield Block(b"", is_last=False, is_too_long=True)
            return
    yield Block(b"".join(tail), is_last=True)


def _lines_before_a_long_one(content: bytes) -> list[Block] | None:
    lines = content.split(b"\n")
    place = next((place for place, line in enumerate(lines) if len(line) > MAX_ROW_BYTES), None)
    if place is None:
        return None
    fine = [Block(b"\n".join(lines[:place]), is_last=False)] if place else []
    return [*fine, Block(b"", is_last=False, is_too_long=True)]
