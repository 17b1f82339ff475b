"""Bodies as they come in: multipart in any cut, and JSON that says one thing."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from fastapi import Request

from api.bodies import parse_json
from api.forms import Form, MalformedForm

BOUNDARY = "XbX"


def _part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def _request(pieces: Sequence[bytes], *, content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> Request:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    left = iter(messages)

    async def receive() -> dict[str, object]:
        return dict(next(left))

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", content_type.encode())]}
    return Request(scope, receive)


def _read(form: Form) -> bytes:
    async def read(chunks: AsyncIterator[bytes]) -> bytes:
        return b"".join([chunk async for chunk in chunks])

    return asyncio.run(read(form.chunks()))


def _cut(body: bytes, seed: int) -> list[bytes]:
    dice = random.Random(seed)
    cuts = sorted(dice.randrange(len(body)) for _ in range(dice.randrange(40)))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@pytest.mark.parametrize("seed", range(30))
def test_a_file_flows_through_whole_however_the_body_is_cut(seed: int) -> None:
    file = b'{"instruction": "a"}\r\n--Xb\r\n--XbY\r\n' + random.Random(seed).randbytes(500) + b"\r\n--"
    body = _part("name", "数据".encode()) + _part("file", file, filename="训练.jsonl") + _part("metadata", b"{}") + END
    form = Form(_request(_cut(body, seed)))
    assert _read(form) == file
    assert form.fields == {"name": "数据", "metadata": "{}"}
    assert form.filename == "训练.jsonl"


def test_a_file_of_line_ends_flows_in_pieces_as_large_as_they_come() -> None:
    file = b"\r\n--" * 30_000
    form = Form(_request([_part("file", file, filename="a") + END]))

    async def pieces() -> list[bytes]:
        return [chunk async for chunk in form.chunks()]

    found = asyncio.run(pieces())
    assert b"".join(found) == file
    assert len(found) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (_part("file", b"x", filename="a"), "ends before its last boundary"),
        (b"", "ends before its last boundary"),
        (_part("name", b"x") + END, "no part named 'file'"),
        (_part("file", b"x") + _part("file", b"y") + END, "two parts named 'file'"),
        (_part("name", b"x") + _part("name", b"y") + END, "comes twice"),
        (_part("", b"x") + END, "has no name"),
        (_part("name", b"\xff\xfe") + END, "not UTF-8"),
        (_part("name", b"x" * 140_000) + END, "exceeds"),
        (b"".join(_part(f"f{n}", b"") for n in range(20)) + END, "more than 16 parts"),
        (b"garbage", "does not parse"),
        (b"--XbX\r\nContent-Disposition\r\n\r\n", "does not parse"),
    ],
)
def test_a_torn_or_misshapen_form_is_refused_by_name(body: bytes, says: str) -> None:
    with pytest.raises(MalformedForm, match=says):
        _read(Form(_request([body])))


def test_a_form_without_boundary_is_refused() -> None:
    with pytest.raises(MalformedForm, match="boundary"):
        Form(_request([], content_type="multipart/form-data"))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1,}',
        "{",
        "",
        '{"a": ' + "1" * 40 + "}",
        "[" * 100_000,
        '{"a": "\\u0000"}',
        '{"a": ["\\ud800"]}',
        '{"\\udc00": 1}',
    ],
)
def test_json_that_is_torn_or_ambiguous_does_not_parse(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse_json(text)


def test_a_repeated_key_is_found_at_once_among_many() -> None:
    members = ",".join(f'"{n}":1' for n in range(100_000))
    began = time.monotonic()
    with pytest.raises(json.JSONDecodeError, match="'99999' comes twice"):
        parse_json(f'{{{members},"99999":1}}')
    assert time.monotonic() - began < 5  # asking each key for its count took minutes, on everybody's event loop


def test_escaped_characters_beyond_u_ffff_are_text() -> None:
    assert parse_json('{"a": "\\ud83d\\ude00"}') == {"a": "😀"}
