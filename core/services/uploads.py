"""An upload on its way in: one stream, stored and inspected at the same time, accepted or gone without a trace."""

import asyncio
import contextlib
import hmac
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, TypeVar

from core.domain import adapters, ids
from core.domain.datasets import DatasetTooLarge, Inspection, InvalidDataset
from core.errors import Finding, Invalid, Unavailable
from core.services.inspectors import DATASETS, PIECE_BYTES, Inspector
from core.storage.objects import ObjectTooLarge, Received, Store

DEFAULT_NAME: Final = "dataset"

T = TypeVar("T")


class InvalidDatasetName(Invalid):
    """A name that no data set may have."""

    code = "invalid_name"


class ChecksumMismatch(Invalid):
    """The bytes that arrived are not those that were sent."""

    code = "sha256_mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What a caller says about a file. Without `name` the file's name gives it.

    `sha256`, if given, is checked against what arrived.
    """

    filename: str
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """`bytes` of one file, and how long the answer may wait for its inspection."""

    bytes: int
    validation_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A stored file, named; `inspection` is None when it was not done in time."""

    name: str
    upload: Upload
    received: Received
    inspection: Inspection | None


class _SeenEnough(Exception):
    """The inspector refused the file before all of it had come."""


async def take_in(
    chunks: AsyncIterator[bytes], *, describe: Callable[[], Upload], store: Store, limits: UploadLimits
) -> Arrived:
    """Store and inspect a stream. Unless this returns, nothing is kept.

    Args:
        chunks: The file's bytes.
        describe: Says what the file is; asked once all of it has come, as a form may name a file after its bytes.
        store: Where the bytes go.
        limits: Of size and time.

    Raises:
        InvalidDatasetName: The name can't be one.
        InvalidDataset: The file can't be trained on; raised before its end if that is plain.
        DatasetTooLarge: It is larger than the limit.
        ChecksumMismatch: It is not what the caller meant to send.
        StorageFull: No room.
        Unavailable: The store or the inspecting process failed.
    """
    async with Inspector.started(DATASETS, limit_bytes=limits.bytes) as inspector:
        try:
            received = await watched(chunks, inspector, store=store, limits=limits)
        except ObjectTooLarge as error:
            raise DatasetTooLarge(error.detail, param="file") from error
        if received is None:
            raise refusal(await inspector.verdict())
        async with dropped_on_error(received.key, store):
            upload = describe()
            name = name_of(upload)
            _check_sum(upload, received)
            inspection = await inspector.outcome(patience_s=limits.validation_wait_s)
            if inspection is not None and not inspection.is_acceptable:
                raise refusal(inspection)
        return Arrived(name=name, upload=upload, received=received, inspection=inspection)


async def watched(
    chunks: AsyncIterator[bytes], inspector: Inspector[T], *, store: Store, limits: UploadLimits
) -> Received | None:
    """Store a stream and show it to an inspector; None, with nothing stored, once that has seen enough.

    Raises:
        ObjectTooLarge: It is larger than the limit.
        StorageFull, Unavailable: It can't be stored.
    """
    shown = _shown(chunks, inspector, patience_s=limits.validation_wait_s)
    try:
        return await store.receive(shown, limit_bytes=limits.bytes)
    except _SeenEnough:
        return None
    finally:
        await shown.aclose()


@contextlib.asynccontextmanager
async def dropped_on_error(key: str, store: Store) -> AsyncIterator[None]:
    """Remove an object if the block raises, a caller who hangs up included."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(store.delete, key)
        raise


def refusal(inspection: Inspection) -> InvalidDataset:
    """Say in one error what an inspection found."""
    errors = [finding for finding in inspection.findings if finding.severity == "error"]
    first = errors[0]
    where = f"line {first.line}: " if first.line else ""
    total = inspection.summary.errors
    if total == 1:
        detail = f"The file can't be trained on; {where}{first.message}"
    else:
        listed = f" ({len(errors)} are listed)" if total > len(errors) else ""
        detail = f"The file has {total} faults{listed}; the first is in {where}{first.message}"
    findings = tuple(
        Finding(code=one.code, message=one.message, line=one.line, field=one.field, hint=one.hint) for one in errors
    )
    return InvalidDataset(detail, param="file", findings=findings)


def name_of(upload: Upload) -> str:
    """The name a data set gets: the one given, else the file's, made to fit.

    Raises:
        InvalidDatasetName: The one given can't be a name.
    """
    if upload.name is None:
        return _sanitised(PurePosixPath(display_name(upload.filename)).stem)
    if not adapters.NAME.fullmatch(upload.name) or ids.looks_like_id(upload.name):
        raise InvalidDatasetName(
            f"{upload.name[:100]!r} can't be a data set's name: use 1 to 64 of a-z 0-9 . _ -, starting with a letter "
            "or digit, and not like an id (ds_…, job_…).",
            param="name",
        )
    return upload.name


def display_name(filename: str) -> str:
    """The last part of a path, without control characters; only ever shown."""
    last = re.split(r"[/\\]", filename)[-1]
    return "".join(character for character in last if character.isprintable())[:255] or DEFAULT_NAME


def _sanitised(stem: str) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).lstrip("._-").rstrip("-")[:64]
    if ids.looks_like_id(name):
        name = name.replace("_", "-")
    return name or DEFAULT_NAME


async def _shown(
    chunks: AsyncIterator[bytes], inspector: Inspector[T], *, patience_s: float
) -> AsyncGenerator[bytes, None]:
    while (chunk := await inspector.next_of(chunks)) is not None:
        for start in range(0, len(chunk), PIECE_BYTES):
            piece = chunk[start : start + PIECE_BYTES]
            await inspector.feed(piece, patience_s=patience_s)
            if inspector.is_decided:
                raise _SeenEnough
            yield piece
    if inspector.is_decided:
        raise _SeenEnough


def _check_sum(upload: Upload, received: Received) -> None:
    if upload.sha256 is not None and not hmac.compare_digest(upload.sha256.lower(), received.sha256):
        raise ChecksumMismatch(
            f"The bytes that arrived have the sha256 {received.sha256}, not the one you sent; upload again.",
            param="sha256",
        )
