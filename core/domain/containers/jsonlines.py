"""JSON lines: one object a line. Splits at line feeds alone: U+2028 and its like are data."""

from collections.abc import Iterator

from core.domain import strictjson
from core.domain.containers import blocks
from core.domain.containers.raw import RawRow, cut, too_long
from core.domain.faults import BadFile


def rows(chunks: Iterator[bytes], line: int) -> Iterator[RawRow]:
    """Give every row, blank lines left out.

    Raises:
        BadFile: A row is too long, or the file ends inside one.
    """
    for block in blocks.of_lines(chunks):
        if block.is_too_long:
            raise BadFile(too_long(line))
        if block.content.isspace():
            line += block.content.count(b"\n") + 1
            continue
        if (read := strictjson.plain_rows(block.content)) is not None:
            yield from enumerate(read, line)
            line += len(read)
            continue
        lines = block.content.split(b"\n")
        ending = lines.pop() if block.is_last else b""
        for raw in lines:
            if raw.startswith(b"{") or (raw and not raw.isspace()):
                yield line, raw
            line += 1
        if ending.strip():
            if ending.lstrip().startswith(b"{") and not ending.rstrip().endswith(b"}"):
                raise BadFile(cut(line))
            yield line, ending
