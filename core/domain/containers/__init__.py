"""Where rows lie in a file: bytes in, numbered rows out, never the whole file in memory.

Recognises JSONL, a JSON array, CSV, TSV and Parquet by content, each also packed with gzip or Zstandard, and refuses
at the first bytes what can be none of these. Knows of formats only which columns a table may have.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from core.domain import compression
from core.domain.compression import Compression
from core.domain.containers import arrays, jsonlines, parquets, signatures, tables
from core.domain.containers.raw import MAX_ROW_BYTES, Raw, RawRow
from core.domain.containers.streams import at_least, chained, first_line
from core.domain.faults import BadFile
from core.errors import Finding

__all__ = ["MAX_ROW_BYTES", "Compression", "Container", "Opened", "Raw", "RawRow", "open_rows"]

BOM: Final = b"\xef\xbb\xbf"
Container = Literal["jsonl", "json", "csv", "tsv", "parquet"]

_HEAD_BYTES: Final = 16
"""As long as the longest signature; waiting for more would hold up what a slow sender is told."""
_HEADER_BYTES: Final = 2**14
_SCALAR: Final = re.compile(rb'(?:true|false|null|NaN|-?Infinity|-?[0-9][0-9.eE+-]*|"[^"\n]*")\s*(?:\n|$)')


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose container is known. `rows` reads on in the chunks and raises BadFile."""

    container: Container
    compression: Compression | None
    rows: Iterator[RawRow]


def open_rows(chunks: Iterable[bytes], *, file: BinaryIO | None = None, after: int = 0) -> Opened:
    """Recognise the container by content.

    Args:
        chunks: The file's bytes, in order.
        file: The same bytes where they can be read in any order. Parquet needs that, and is copied to an unnamed
            temporary file without it.
        after: So many rows at the start may be left out; Parquet leaves them out where that saves work.

    Raises:
        BadFile: The first bytes are empty, in another encoding, or of a format that is not read here.
    """
    source = iter(chunks)
    head = at_least(b"", source, _HEAD_BYTES)
    packed = compression.of(head)
    if packed:
        source, file = compression.unpacked(chained(head, source), packed), None
        head = at_least(b"", source, _HEAD_BYTES)
    if parquets.is_one(head):
        return Opened("parquet", packed, parquets.rows(chained(head, source), file, after=after))
    signatures.refuse(head[:_HEAD_BYTES], is_unpacked=packed is not None)
    container, rows = _text(head.removeprefix(BOM), source)
    return Opened(container, packed, rows)


def _text(head: bytes, source: Iterator[bytes]) -> tuple[Container, Iterator[RawRow]]:
    line = 1
    while not head.strip():
        line += head.count(b"\n")
        chunk = next(source, None)
        if chunk is None:
            raise BadFile(
                Finding(code="empty_file", message="The file holds no rows.", hint="Upload at least one row.")
            )
        head = chunk
    text = head.lstrip()
    line += head.count(b"\n", 0, len(head) - len(text))
    if text.startswith(b"["):
        return "json", arrays.elements(chained(text, source), line)
    if text.startswith(b"{"):
        return "jsonl", jsonlines.rows(chained(text, source), line)
    # A tab at the start may part an empty name from the next one.
    text = first_line(head.lstrip(b"\r\n"), source, _HEADER_BYTES)
    if header := tables.header_of(text, line):
        return header.container, tables.rows(chained(text, source), header, line)
    text = text.lstrip()
    if _SCALAR.match(text):
        return "jsonl", jsonlines.rows(chained(text, source), line)
    raise BadFile(
        Finding(
            code="unsupported_format",
            message="The file is no JSONL, JSON array, CSV, TSV or Parquet: it starts with " + _start_of(text) + ".",
            line=line,
            hint="Write one JSON object a line, one array of objects, or a table whose header has the field names.",
        )
    )


def _start_of(text: bytes) -> str:
    return repr(text[:12].decode("utf-8", "backslashreplace"))
