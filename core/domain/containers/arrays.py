"""A JSON array: cut into its elements by brackets and quotation marks alone. Knows no other JSON."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from core.domain.containers.raw import MAX_ROW_BYTES, RawRow, cut, too_long
from core.domain.containers.streams import at_least, up_to
from core.domain.faults import BadFile
from core.domain.strictjson import MAX_DEPTH, too_deep
from core.errors import Finding

# A flat object: strings swallow brackets and quotation marks; possessive, so that nothing is ever tried twice.
_FLAT: Final = re.compile(rb'\{[^{}\[\]"]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^{}\[\]"]*+)*+\}', re.DOTALL)
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)
_ATOM: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s,\[\]{}"]++', re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")


def elements(chunks: Iterator[bytes], line: int) -> Iterator[RawRow]:
    """Give every element of the array that the first chunk opens with its first byte.

    Raises:
        BadFile: An element is not closed, too long or nested too deeply, or something other than a comma parts two.
    """
    window = _Window(next(chunks)[1:], chunks, line)
    expects_element, after_comma = True, False
    while True:
        here = window.next_byte()
        if here == b"":
            raise BadFile(cut(window.line))
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
        # Of the current element: bytes whose brackets are counted, how many are open, and whether a text is.
        self._counted = self._depth = 0
        self._is_in_text = False
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
        self._counted = self._depth = 0
        while True:
            end = self._end()
            size = (end or len(self._buffer)) - self._at
            if size > MAX_ROW_BYTES:
                raise BadFile(too_long(self.line))
            if end is not None:
                row = self.line, self._buffer[self._at : end]
                self.skip(size)
                return row
            if not self._read_on(size):
                raise BadFile(cut(self.line))

    def _end(self) -> int | None:
        """Where the element ends; None while the window is too small to tell."""
        if not self._counted and (flat := _FLAT.match(self._buffer, self._at)):
            return flat.end()
        if self._is_bracketed():
            return self._closing_bracket()
        atom = _ATOM.match(self._buffer, self._at)
        if atom is None and self._buffer[self._at] != ord('"'):
            raise BadFile(_separator(self.line, "malformed_json", "A bracket is closed that was never opened."))
        return atom.end() if atom and atom.end() < len(self._buffer) else None

    def _is_bracketed(self) -> bool:
        return self._buffer[self._at] in b"{["

    def _closing_bracket(self) -> int | None:
        """Go on counting brackets where the last look ended, or at the text that was open there."""
        self._is_in_text = False
        for token in _TOKEN.finditer(self._buffer, self._at + self._counted):
            match token.group():
                case b"{" | b"[":
                    self._depth += 1
                    if self._depth > MAX_DEPTH:
                        raise BadFile(replace(too_deep(), line=self.line))
                case b"}" | b"]":
                    self._depth -= 1
                    if self._depth == 0:
                        return token.end()
                case b'"':
                    self._counted, self._is_in_text = token.start() - self._at, True
                    return None
                case _:
                    pass
        self._counted = len(self._buffer) - self._at
        return None

    def _read_on(self, size: int) -> bool:
        """Read on as far as makes another look worth it, so that the work is linear however small the chunks are."""
        if not self._is_bracketed():
            return self._grow(size)
        if self._is_in_text:
            kept = self._buffer[self._at :]
            self._buffer, self._at = up_to(b'"', kept, self._source, MAX_ROW_BYTES), 0
            return len(self._buffer) > len(kept)
        return self._grow(1)

    def _grow(self, size: int) -> bool:
        """Read on by at least `size` bytes unless the file ends; False if it had ended."""
        kept = self._buffer[self._at :]
        self._buffer, self._at = at_least(kept, self._source, len(kept) + size), 0
        return len(self._buffer) > len(kept)
