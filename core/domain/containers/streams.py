"""Looking at a stream's beginning without losing it."""

from collections.abc import Iterator


def at_least(buffer: bytes, source: Iterator[bytes], size: int) -> bytes:
    """Read on until there are `size` bytes, or the stream ends."""
    parts, have = [buffer], len(buffer)
    while have < size and (chunk := next(source, None)) is not None:
        parts.append(chunk)
        have += len(chunk)
    return b"".join(parts)


def up_to(mark: bytes, buffer: bytes, source: Iterator[bytes], size: int) -> bytes:
    """Read on until a chunk with a mark of one byte has come, or more than `size` bytes are there, or the stream ends."""
    parts, have = [buffer], len(buffer)
    while have <= size and (chunk := next(source, None)) is not None:
        parts.append(chunk)
        have += len(chunk)
        if mark in chunk:
            break
    return b"".join(parts)


def first_line(buffer: bytes, source: Iterator[bytes], size: int) -> bytes:
    """Read on until there is a line feed, or `size` bytes, or the stream ends."""
    while b"\n" not in buffer and len(buffer) < size and (chunk := next(source, None)) is not None:
        buffer += chunk
    return buffer


def chained(head: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    """Put bytes before a stream."""
    yield head
    yield from source
