"""A file on its way in: from a form or as the raw body, never kept here."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from pydantic import TypeAdapter, ValidationError

from api.bodies import WrongContentType, media_type, parse_json
from api.forms import Form
from core.domain.written import Metadata
from core.errors import Finding, Invalid
from core.services.uploads import Upload

RAW: Final = frozenset(
    {
        "",
        "application/octet-stream",
        "application/json",
        "application/jsonl",
        "application/x-jsonlines",
        "application/ndjson",
        "application/x-ndjson",
        "text/plain",
        "text/csv",
        "text/tab-separated-values",
        "application/vnd.apache.parquet",
        "application/gzip",
        "application/x-gzip",
        "application/zstd",
    }
)
"""What a raw body may call itself; what it is, its content says."""
FIELDS: Final = frozenset({"name", "metadata", "sha256"})
QUERY: Final = FIELDS | {"filename"}
SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")
METADATA: Final[TypeAdapter[dict[str, str]]] = TypeAdapter(Metadata)


class InvalidUpload(Invalid):
    """What is said about the file can't be accepted."""

    code = "invalid_upload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A file's bytes as they come, and what is said about it, which is known once they have come."""

    chunks: AsyncIterator[bytes]
    upload: Upload | Callable[[], Upload]


async def incoming(
    request: Request,
    name: Annotated[str | None, Query(max_length=200, description="Of a raw body; a form has a field.")] = None,
    filename: Annotated[str | None, Query(max_length=1000)] = None,
    metadata: Annotated[str | None, Query(max_length=16_384, description="A JSON object of strings.")] = None,
    sha256: Annotated[str | None, Query(pattern="^[0-9A-Fa-f]{64}$", description="Checked if sent.")] = None,
) -> Incoming:
    """Begin to take in a file; nothing of the body has been read yet.

    Raises:
        WrongContentType: A media type or content coding that is not read here.
        MalformedForm: A form without a boundary.
        InvalidUpload: The metadata is none, or a query parameter is not for this.
    """
    kind = media_type(request)
    _check_query(request, is_form=kind == "multipart/form-data")
    refuse_encoded(request)
    if kind == "multipart/form-data":
        form = Form(request)
        return Incoming(chunks=form.chunks(), upload=lambda: _described(form))
    if kind not in RAW:
        raise WrongContentType(
            "Send a form (curl -F file=@train.jsonl) or the bytes as application/octet-stream "
            "(curl --data-binary @train.jsonl -H 'Content-Type: application/octet-stream').",
            param="content-type",
        )
    upload = Upload(filename=filename or name or "", name=name, metadata=metadata_of(metadata), sha256=sha256)
    return Incoming(chunks=request.stream(), upload=upload)


def refuse_encoded(request: Request) -> None:
    """Refuse a body that was packed for the way; a file that is packed itself is another matter.

    Raises:
        WrongContentType: It has a content coding.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise WrongContentType(
            "Send the file without Content-Encoding; a gzip or Zstandard file is sent as it is.",
            param="content-encoding",
        )


IncomingDep = Annotated[Incoming, Depends(incoming)]


def _check_query(request: Request, *, is_form: bool) -> None:
    """Refuse what would not be heard: a data set under another name than was asked for is found by nobody."""
    for name in request.query_params:
        if name not in QUERY:
            known = ", ".join(sorted(QUERY))
            raise InvalidUpload(f"There is no parameter {name[:60]!r}; known: {known}.", param=name[:60])
        if is_form:
            raise InvalidUpload(f"Send {name} as a field of the form, not in the address.", param=name)


def _described(form: Form) -> Upload:
    """Read the fields of a form that has been read to its end."""
    for field in form.fields:
        if field not in FIELDS:
            raise InvalidUpload(
                f"There is no field {field[:60]!r}; known: file, {', '.join(sorted(FIELDS))}.", param=field[:60]
            )
    sha256 = form.fields.get("sha256")
    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise InvalidUpload("sha256 has 64 hexadecimal digits.", param="sha256")
    return Upload(
        filename=form.filename or "",
        name=form.fields.get("name"),
        metadata=metadata_of(form.fields.get("metadata")),
        sha256=sha256,
    )


def metadata_of(text: str | None) -> dict[str, str]:
    """Read the field `metadata`, a JSON object of strings.

    Raises:
        InvalidUpload: It is none.
    """
    if not text:
        return {}
    try:
        return METADATA.validate_python(parse_json(text))
    except JSONDecodeError as error:
        raise InvalidUpload(f"metadata is not JSON: {error.msg}.", param="metadata") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["metadata", *(str(part) for part in first["loc"] if part != "[key]")])
        finding = Finding(code="invalid_metadata", field=where, message=first["msg"])
        hint = "up to 16 pairs of text, keys up to 64 characters, values up to 512"
        raise InvalidUpload(f"{where}: {first['msg']}; {hint}.", param="metadata", findings=(finding,)) from error
