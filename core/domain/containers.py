"""Where rows lie in a file: bytes in, numbered raw rows out, never the whole file in memory.

Recognises a JSON array and JSONL by content, and refuses at the first bytes what can be neither. Knows no JSON
beyond brackets and quotation marks: core/domain/strictjson.py reads the rows.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from core.domain.faults import BadFile
from core.domain.strictjson import MAX_DEPTH, too_deep
from core.errors import Finding

MAX_ROW_BYTES: Final = 2**20
BOM: Final = b"\xef\xbb\xbf"
Container = Literal["jsonl", "json"]

_HEAD_BYTES: Final = 512
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
}
_BINARY: Final = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"%PDF-": "a PDF",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}
_SCALAR: Final = re.compile(rb'(?:true|false|null|NaN|-?Infinity|-?[0-9][0-9.eE+-]*|"[^"\n]*")\s*(?:\n|$)')


RawRow = tuple[int, bytes]
"""The line where a row begins, counted from 1 in the user's file, and the row's bytes."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose container is known. `rows` reads on in the chunks and raises BadFile."""

    container: Container
    rows: Iterator[RawRow]


def open_rows(chunks: Iterable[bytes]) -> Opened:
    """Recognise the container by content.

    Raises:
        BadFile: The first bytes are empty, in another encoding, or of a format that is not read here.
    """
    source = iter(chunks)
    head = _at_least(b"", source, _HEAD_BYTES)
    _refuse_disguises(head)
    head = head.removeprefix(BOM)
    line = 1
    while not head.strip():
        line += head.count(b"\n")
        chunk = next(source, None)
        if chunk is None:
            raise BadFile(
                Finding(code="empty_file", message="The file holds no rows.", hint="Upload JSONL or a JSON array.")
            )
        head = chunk
    text = head.lstrip()
    line += head.count(b"\n", 0, len(head) - len(text))
    if text.startswith(b"["):
        return Opened("json", _elements(text, source, line))
    if text.startswith(b"{") or _SCALAR.match(text):
        return Opened("jsonl", _lines(_chained(text, source), line))
    raise BadFile(
        Finding(
            code="unsupported_format",
            message="The file is neither JSONL nor a JSON array: it starts with " + _start_of(text) + ".",
            line=line,
            hint="Write one JSON object a line, or one array of objects.",
        )
    )


def _start_of(text: bytes) -> str:
    return repr(text[:12].decode("utf-8", "backslashreplace"))


def _at_least(buffer: bytes, source: Iterator[bytes], size: int) -> bytes:
    parts, have = [buffer], len(buffer)
    while have < size and (chunk := next(source, None)) is not None:
        parts.append(chunk)
        have += len(chunk)
    return b"".join(parts)


def _chained(head: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from source


def _refuse_disguises(head: bytes) -> None:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise BadFile(
                Finding(code="compressed_file", message=f"The file is {name}.", line=1, hint="Unpack it first.")
            )
    for magic, name in _BINARY.items():
        if head.startswith(magic):
            raise BadFile(
                Finding(
                    code="binary_file",
                    message=f"The file is {name}, whatever its name says.",
                    line=1,
                    hint="Export the rows as JSONL in UTF-8.",
                )
            )
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or re.match(rb'(?:[\[{"\s]\0|\0[\[{"\s])', head):
        raise BadFile(
            Finding(
                code="utf16", message="The file is UTF-16 or UTF-32.", line=1, hint="Save it as UTF-8 (without BOM)."
            )
        )
    if b"\0" in head:
        raise BadFile(
            Finding(
                code="nul_byte",
                message="The file holds NUL bytes, so it is not text.",
                line=1 + head.count(b"\n", 0, head.index(b"\0")),
                hint="Upload JSONL or a JSON array in UTF-8.",
            )
        )


def _lines(chunks: Iterator[bytes], line: int) -> Iterator[RawRow]:
    """Split at line feeds alone: U+2028 and its like are data."""
    tail = bytearray()
    for chunk in chunks:
        *complete, rest = chunk.split(b"\n")
        if complete:
            complete[0] = bytes(tail) + complete[0]
            tail.clear()
        for raw in complete:
            if len(raw) > MAX_ROW_BYTES:
                raise BadFile(_too_long(line))
            if raw.startswith(b"{") or (raw and not raw.isspace()):
                yield line, raw
            line += 1
        tail += rest
        if len(tail) > MAX_ROW_BYTES:
            raise BadFile(_too_long(line))
    ending = bytes(tail).strip()
    if ending.startswith(b"{") and not ending.endswith(b"}"):
        raise BadFile(_cut(line))
    if ending:
        yield line, bytes(tail)


def _cut(line: int) -> Finding:
    return Finding(
        code="truncated",
        message="The file ends inside a row.",
        line=line,
        hint="Was the export or the copy broken off? Write the file again.",
    )


def _too_long(line: int) -> Finding:
    return Finding(
        code="row_too_long",
        message=f"The row is longer than {MAX_ROW_BYTES} bytes.",
        line=line,
        hint="One object a line in JSONL; split texts that are this long.",
    )


# A flat object: strings swallow brackets and quotation marks; possessive, so that nothing is ever tried twice.
_FLAT: Final = re.compile(rb'\{[^{}\[\]"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^{}\[\]"]*+)*+\}', re.DOTALL)
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)
_ATOM: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s,\[\]{}"]++', re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")


def _elements(head: bytes, source: Iterator[bytes], line: int) -> Iterator[RawRow]:
    """Split a JSON array into its elements, by brackets and strings alone."""
    window = _Window(head[1:], source, line)
    expects_element, after_comma = True, False
    while True:
        here = window.next_byte()
        if here == b"":
            raise BadFile(_cut(window.line))
        if here == b"]":
            if after_comma:
                raise BadFile(_separator(window.line, "trailing_comma", "A comma stands before the closing bracket."))
            break
        if here == b",":
            if expects_element:
                raise BadFile(_separator(window.line, "malformed_json", "A row is missing between two commas."))
            window.skip(1)
            expects_element = after_comma = True
        elif not expects_element:
            raise BadFile(_separator(window.line, "malformed_json", "A comma is missing between two rows."))
        else:
            yield window.element()
            expects_element = after_comma = False
    window.skip(1)
    if window.next_byte():
        raise BadFile(_separator(window.line, "malformed_json", "The file goes on after the array's closing bracket."))


def _separator(line: int, code: str, message: str) -> Finding:
    return Finding(code=code, message=message, line=line, hint="Write the array with a JSON library, or use JSONL.")


class _Window:
    """The part of the file that is being looked at: from the current element to the end of the last chunk."""

    def __init__(self, buffer: bytes, source: Iterator[bytes], line: int) -> None:
        self._buffer = buffer
        self._source = source
        self._at = 0
        self.line = line

    def next_byte(self) -> bytes:
        """The next byte that is not white space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self.skip(space.end() - self._at if space else 0)
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if not self._grow(1):
                return b""

    def skip(self, size: int) -> None:
        self.line += self._buffer.count(b"\n", self._at, self._at + size)
        self._at += size

    def element(self) -> RawRow:
        """Cut out the element that starts here.

        Raises:
            BadFile: It is not closed, too long, or nested too deeply.
        """
        while True:
            end = self._end()
            size = (end or len(self._buffer)) - self._at
            if size > MAX_ROW_BYTES:
                raise BadFile(_too_long(self.line))
            if end is not None:
                row = self.line, self._buffer[self._at : end]
                self.skip(size)
                return row
            # Doubling before each new look keeps the work linear, however small the chunks are.
            if not self._grow(max(size, 1)):
                raise BadFile(_cut(self.line))

    def _end(self) -> int | None:
        """Where the element ends; None while the window is too small to tell."""
        if flat := _FLAT.match(self._buffer, self._at):
            return flat.end()
        if self._buffer[self._at] in b"{[":
            return self._closing_bracket()
        atom = _ATOM.match(self._buffer, self._at)
        if atom is None and self._buffer[self._at] != ord('"'):
            raise BadFile(_separator(self.line, "malformed_json", "A bracket is closed that was never opened."))
        return atom.end() if atom and atom.end() < len(self._buffer) else None

    def _closing_bracket(self) -> int | None:
        depth = 0
        for token in _TOKEN.finditer(self._buffer, self._at):
            match token.group():
                case b"{" | b"[":
                    depth += 1
                    if depth > MAX_DEPTH:
                        finding = too_deep()
                        raise BadFile(
                            Finding(code=finding.code, message=finding.message, line=self.line, hint=finding.hint)
                        )
                case b"}" | b"]":
                    depth -= 1
                    if depth == 0:
                        return token.end()
                case b'"':
                    return None
                case _:
                    pass
        return None

    def _grow(self, size: int) -> bool:
        """Read on by at least `size` bytes unless the file ends; False if it had ended."""
        kept = self._buffer[self._at :]
        self._buffer, self._at = _at_least(kept, self._source, len(kept) + size), 0
        return len(self._buffer) > len(kept)
