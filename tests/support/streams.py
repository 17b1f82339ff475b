"""Bytes as they arrive: cut into chunks, in a loop or out of one."""

from collections.abc import AsyncIterator, Iterator


def cut(content: bytes, size: int = 65536) -> Iterator[bytes]:
    """Cut bytes into chunks."""
    return (content[at : at + size] for at in range(0, len(content), size))


async def arriving(content: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    """Bytes as an upload brings them."""
    for chunk in cut(content, size):
        yield chunk
