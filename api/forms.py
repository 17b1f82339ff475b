"""Multipart forms that flow through without being kept.

Knows no noun. starlette's own form parser is not used, since it spools every file to disk before anyone sees it.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import Malformed

MAX_FIELD_BYTES: Final = 128 * 1024
"""Room for the longest system prompt, four bytes a character."""
MAX_PARTS: Final = 16


class MalformedForm(Malformed):
    """The multipart body is torn, or not shaped as the route needs."""

    code = "malformed_form"
    title = "Malformed form"


class Multipart:
    """One multipart body, read once, part by part in the order in which they come; nothing is kept."""

    def __init__(self, request: Request) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise MalformedForm("The multipart body names no boundary.", param="content-type")
        self._request = request
        self._headers = _Headers()
        self._count = 0
        self._ended = False
        self._seen: list[Part | bytearray | None] = []
        """What the parser has found and nobody has taken: a part's beginning, bytes of it, None for its end."""
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open_part,
                "on_part_data": self._part_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self._events = self._read()

    async def parts(self) -> AsyncIterator["Part"]:
        """Yield the parts; what is not read of one is skipped. Ends when the whole form has been read.

        Raises:
            MalformedForm: The form is torn, or has too many parts or one without a name.
        """
        async for event in self._events:
            if isinstance(event, Part):
                yield event

    async def _read(self) -> AsyncIterator["Part | bytes | None"]:
        async for received in self._request.stream():
            try:
                self._parser.write(received)
            except FormParserError as error:
                raise MalformedForm("The multipart body does not parse; its boundary or a header is broken.") from error
            seen, self._seen = self._seen, []
            for event in seen:
                yield bytes(event) if isinstance(event, bytearray) else event
        if not self._ended:
            raise MalformedForm("The multipart body ends before its last boundary.")

    def _begin_part(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise MalformedForm(f"The multipart body has more than {MAX_PARTS} parts.")
        self._headers = _Headers()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._headers.name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers.value += data[start:end]

    def _end_header(self) -> None:
        if self._headers.name.lower() == b"content-disposition":
            _, self._headers.disposition = parse_options_header(self._headers.value)
        self._headers.name, self._headers.value = b"", b""

    def _open_part(self) -> None:
        disposition = self._headers.disposition
        name = disposition.get(b"name", b"").decode("utf-8", "replace")
        filename = disposition.get(b"filename")
        if not name:
            raise MalformedForm("A part of the multipart body has no name.")
        decoded = None if filename is None else filename.decode("utf-8", "replace")
        self._seen.append(Part(name, decoded, self._events))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        # The parser hands over some bytes at a time wherever a line ends; as many chunks would cost as many tasks.
        last = self._seen[-1] if self._seen else None
        if isinstance(last, bytearray):
            last += data[start:end]
        else:
            self._seen.append(bytearray(data[start:end]))

    def _end_part(self) -> None:
        self._seen.append(None)

    def _end(self) -> None:
        self._ended = True


@dataclass
class _Headers:
    """The headers of a part while they come."""

    name: bytes = b""
    value: bytes = b""
    disposition: dict[bytes, bytes] = field(default_factory=dict)


class Part:
    """One part of a form. `filename` is None for a plain field."""

    def __init__(self, name: str, filename: str | None, events: AsyncIterator["Part | bytes | None"]) -> None:
        self.name = name
        self.filename = filename
        self._events = events

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the part's bytes as they come, once."""
        async for event in self._events:
            if not isinstance(event, bytes):
                return
            yield event

    async def content(self, *, limit_bytes: int = MAX_FIELD_BYTES) -> bytes:
        """Read a small part.

        Raises:
            MalformedForm: It exceeds `limit_bytes`.
        """
        content = b""
        async for chunk in self.chunks():
            content += chunk
            if len(content) > limit_bytes:
                shown = (self.filename or self.name)[:100]
                raise MalformedForm(f"The part {shown!r} exceeds {limit_bytes} bytes.", param=self.name[:100])
        return content

    async def text(self) -> str:
        """Read a small part that is text.

        Raises:
            MalformedForm: It is too large, or not UTF-8.
        """
        try:
            return (await self.content()).decode()
        except UnicodeDecodeError as error:
            raise MalformedForm(f"The field {self.name[:100]!r} is not UTF-8.", param=self.name[:100]) from error


class Fields:
    """The plain fields of a form, each of which may come once."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def take(self, part: Part) -> None:
        """Read a field.

        Raises:
            MalformedForm: It came before, is too large, or not UTF-8.
        """
        if part.name in self.values:
            raise MalformedForm(f"The field {part.name[:100]!r} comes twice.", param=part.name[:100])
        self.values[part.name] = await part.text()


class Form:
    """A form with one file: the bytes of the part `file` flow through `chunks`, small fields are kept.

    Fields may come before or after the file; those after it are known once `chunks` has ended.
    """

    def __init__(self, request: Request) -> None:
        self.filename: str | None = None
        self._multipart = Multipart(request)
        self._fields = Fields()

    @property
    def fields(self) -> Mapping[str, str]:
        """The fields that have come so far."""
        return self._fields.values

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they come; ends when the whole form has been read.

        Raises:
            MalformedForm: The form is torn, has no file, or has more than one.
        """
        async for part in self._multipart.parts():
            if part.name != "file":
                await self._fields.take(part)
                continue
            if self.filename is not None:
                raise MalformedForm("The multipart body has two parts named 'file'.", param="file")
            self.filename = part.filename or ""
            async for chunk in part.chunks():
                yield chunk
        if self.filename is None:
            raise MalformedForm("The multipart body has no part named 'file'.", param="file")
