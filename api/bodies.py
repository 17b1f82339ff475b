"""Bodies as they come in: strict JSON, and multipart forms that flow through without being kept.

Knows no noun. starlette's own form parser is not used, since it spools every file to disk before anyone sees it.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from typing_extensions import override

from core.errors import Malformed, Unsupported

MAX_NUMBER_CHARACTERS: Final = 32
MAX_FIELD_BYTES: Final = 64 * 1024
MAX_PARTS: Final = 16


class WrongContentType(Unsupported):
    """The body is of a media type that the route does not read."""

    code = "unsupported_media_type"
    title = "Unsupported media type"


class MalformedForm(Malformed):
    """The multipart body is torn, or not shaped as the route needs."""

    code = "malformed_form"
    title = "Malformed form"


class StrictRequest(Request):
    """A request whose JSON is UTF-8, names each key once, and holds no number longer than 32 characters."""

    @override
    async def json(self) -> Any:
        """Parse the body.

        Raises:
            json.JSONDecodeError: FastAPI turns it into a validation error, api/faults.py into `malformed_json`.
        """
        body = await self.body()
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise json.JSONDecodeError("not UTF-8", "", error.start) from error
        return parse_json(text)


class StrictRoute(APIRoute):
    """A route that reads JSON as StrictRequest does, and no other media type."""

    @override
    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        inner = super().get_route_handler()
        reads_json = self.body_field is not None

        async def handle(request: Request) -> Response:
            if reads_json and has_body(request) and media_type(request) != "application/json":
                raise WrongContentType("Send the body as application/json.", param="content-type")
            return await inner(StrictRequest(request.scope, request.receive))

        return handle


def parse_json(text: str) -> Any:  # noqa: ANN401  (JSON is anything until a model has read it)
    """Read JSON text strictly.

    Raises:
        json.JSONDecodeError: It is none, repeats a key, nests too deeply, or holds an endless number.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise json.JSONDecodeError(f"the key {twice[:100]!r} comes twice", text, 0)
        return found

    def number(digits: str) -> int:
        if len(digits) > MAX_NUMBER_CHARACTERS:
            raise json.JSONDecodeError(f"a number of more than {MAX_NUMBER_CHARACTERS} characters", text, 0)
        return int(digits)

    try:
        value = json.loads(text, object_pairs_hook=once, parse_int=number)
        if "\\u" in text:
            _check_texts(value, text)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", text, 0) from error
    return value


def _check_texts(value: object, source: str) -> None:
    """Refuse escaped NUL and lone surrogates, which no database and no tokenizer takes."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_texts(name, source)
            _check_texts(item, source)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, source)
    elif isinstance(value, str) and ("\0" in value or any("\ud800" <= character <= "\udfff" for character in value)):
        raise json.JSONDecodeError("a text holds NUL or half a character", source, 0)


def has_body(request: Request) -> bool:
    """Say whether the request brings any bytes."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def media_type(request: Request) -> str:
    """The body's media type in lower case, without parameters; empty where none is named."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Form:
    """One multipart body, read once: small fields are kept, the bytes of the part `file` flow through `chunks`.

    Fields may come before or after the file; those after it are known once `chunks` has ended.
    """

    def __init__(self, request: Request) -> None:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise MalformedForm("The multipart body names no boundary.", param="content-type")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._request = request
        self._part: _Part | None = None
        self._parts = 0
        self._ended = False
        self._flowing: list[bytes] = []
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

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes as they come; ends when the whole form has been read.

        Raises:
            MalformedForm: The form is torn, has no file, or has more than one.
        """
        async for received in self._request.stream():
            try:
                self._parser.write(received)
            except FormParserError as error:
                raise MalformedForm("The multipart body does not parse; its boundary or a header is broken.") from error
            for chunk in self._flowing:
                yield chunk
            self._flowing.clear()
        if not self._ended:
            raise MalformedForm("The multipart body ends before its last boundary.")
        if self.filename is None:
            raise MalformedForm("The multipart body has no part named 'file'.", param="file")

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedForm(f"The multipart body has more than {MAX_PARTS} parts.")
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._open.header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._open.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._open
        if part.header_name.lower() == b"content-disposition":
            _, options = parse_options_header(part.header_value)
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            part.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        part.header_name, part.header_value = b"", b""

    def _open_part(self) -> None:
        part = self._open
        if part.name == "file":
            if self.filename is not None:
                raise MalformedForm("The multipart body has two parts named 'file'.", param="file")
            self.filename = part.filename
        elif not part.name:
            raise MalformedForm("A part of the multipart body has no name.")
        elif part.name in self.fields:
            raise MalformedForm(f"The field {part.name[:100]!r} comes twice.", param=part.name[:100])

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._open
        if part.name == "file":
            self._flowing.append(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > MAX_FIELD_BYTES:
            raise MalformedForm(
                f"The field {part.name[:100]!r} exceeds {MAX_FIELD_BYTES} bytes.", param=part.name[:100]
            )

    def _end_part(self) -> None:
        part = self._open
        if part.name != "file":
            try:
                self.fields[part.name] = part.value.decode()
            except UnicodeDecodeError as error:
                raise MalformedForm(f"The field {part.name[:100]!r} is not UTF-8.", param=part.name[:100]) from error

    def _end(self) -> None:
        self._ended = True

    @property
    def _open(self) -> "_Part":
        if self._part is None:
            raise MalformedForm("The multipart body has data outside its parts.")
        return self._part


class _Part:
    """The part being read."""

    def __init__(self) -> None:
        self.name = ""
        self.filename = ""
        self.header_name = b""
        self.header_value = b""
        self.value = b""
