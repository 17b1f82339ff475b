"""JSON bodies as they come in, read strictly. Knows no noun; forms are api/forms.py."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from typing_extensions import override

from core.errors import Unsupported

MAX_NUMBER_CHARACTERS: Final = 32


class WrongContentType(Unsupported):
    """The body is of a media type that the route does not read."""

    code = "unsupported_media_type"
    title = "Unsupported media type"


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
