"""What users do with data sets: upload, look, delete; and how jobs get at their bytes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from core.db.clocks import wall
from core.db.transactions import Database, Transaction, snapshot, transaction
from core.domain import ids
from core.domain.datasets import Dataset, DatasetInUse, DatasetNotFound
from core.domain.keys import Caller
from core.domain.pages import Filters, InvalidFilter, Page, cursor
from core.errors import Problem, Unavailable
from core.services import idempotency, uploads
from core.services.idempotency import Stored
from core.services.uploads import Arrived, Upload, UploadLimits
from core.storage.objects import ObjectMissing, Store

SHOWN: Final = frozenset({"processing", "ready", "invalid"})
CREATED: Final = 201
PENDING: Final = 202
FOUND: Final = 200
ORPHAN_AGE: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A data set, what its request is answered, and whether an earlier request with the same key made it.

    The answer's status is 201 for a new data set, 200 for one that was there, 202 for one still `processing`. A
    repeated request gets the first one's answer, word for word.
    """

    dataset: Dataset
    answer: Stored
    created: bool
    replayed: bool = False


def name_only(dataset: Dataset) -> str:
    """The least that an answer can say of a data set; a repeated request finds it by that."""
    return json.dumps({"id": dataset.id})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Stored bytes that ask for a row."""

    arrived: Arrived
    caller: Caller
    key: str | None
    show: Callable[[Dataset], str]


async def receive(
    chunks: AsyncIterator[bytes],
    *,
    upload: Upload | Callable[[], Upload],
    caller: Caller,
    key: str | None,
    store: Store,
    database: Database,
    limits: UploadLimits,
    show: Callable[[Dataset], str] = name_only,
) -> Registered:
    """Take in one file: stored, hashed and inspected while it arrives, then made a data set.

    The row comes last, so that rows always point to bytes. Equal bytes under one name are the version that is
    there; new bytes are the name's next version. One that could not be inspected in time is `processing`.

    Args:
        chunks: The file's bytes.
        upload: What the file is or, since a form may say so after the bytes, a call that tells once they have come.
        caller: Whose data set it becomes.
        key: The Idempotency-Key, if one came.
        store: Where the bytes go.
        database: Where the row goes.
        limits: Of size and time.
        show: Writes the answer, a JSON object with the data set's `id`, which is kept under the key.

    Raises:
        InvalidDataset: The file can't be trained on; nothing is stored.
        DatasetTooLarge: It is larger than the limit.
        InvalidDatasetName: The name can't be one.
        ChecksumMismatch: It is not what the caller meant to send.
        KeyReused: The idempotency key came before with other bytes.
        StorageFull: No room.
        Unavailable: The store, the database or the inspecting process does not answer.
    """
    if isinstance(upload, Upload):
        uploads.name_of(upload)
    describe = (lambda: upload) if isinstance(upload, Upload) else upload
    arrived = await uploads.take_in(chunks, describe=describe, store=store, limits=limits)
    # A caller who hangs up here does not stop the thread, so the bytes stay: either a row holds them, or a sweep
    # takes them in a day.
    offer = _Offer(arrived=arrived, caller=caller, key=key, show=show)
    return await asyncio.to_thread(_register, offer, store, database)


def get(dataset_id: str, *, caller: Caller, database: Database) -> Dataset:
    """Find one data set of the caller's project by its id.

    Raises:
        DatasetNotFound: There is none.
    """
    with snapshot(database) as tx:
        return _found(tx, dataset_id, caller)


def resolve(reference: str, *, project_id: str, database: Database) -> Dataset:
    """Find what `ds_…`, `name` (newest) or `name@N` means; its status is the caller's to judge.

    Raises:
        DatasetNotFound: Nothing, or the text is no reference.
    """
    with snapshot(database) as tx:
        dataset = tx.datasets.referred(reference, project_id=project_id)
    if dataset is None:
        raise DatasetNotFound(
            f"There is no data set {reference[:100]!r}; use its ds_… id, its name, or name@N.", param="dataset"
        )
    return dataset


def listing(caller: Caller, filters: Filters, database: Database) -> Page[Dataset]:
    """List the project's data sets, newest first.

    Raises:
        UnknownCursor: `after` is no ds_… id.
        InvalidFilter: No data set ever has this status.
    """
    after = cursor(filters, "ds")
    if filters.status is not None and filters.status not in SHOWN:
        raise InvalidFilter(f"A data set's status is one of {', '.join(sorted(SHOWN))}.", param="status")
    with snapshot(database) as tx:
        return tx.datasets.page(filters, project_id=caller.project_id, after=after)


def delete(dataset_id: str, *, caller: Caller, store: Store, database: Database) -> None:
    """Delete a data set: a tombstone stays, the bytes go unless another data set has the same.

    Raises:
        DatasetNotFound: There is none.
        DatasetInUse: A job that has not ended needs it.
    """
    with transaction(database) as tx:
        dataset = _found(tx, dataset_id, caller)
        tx.datasets.seize(dataset.id)
        if jobs := tx.datasets.jobs_needing(dataset.id):
            more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
            raise DatasetInUse(
                f"{', '.join(jobs[:3])}{more} need {dataset.reference}; cancel them first, or wait for their end."
            )
        unneeded = tx.datasets.bury(dataset.id)
    if unneeded is not None:
        store.delete(unneeded)


def fetch_to(dataset: Dataset, path: Path, store: Store) -> Path:
    """Copy a data set's bytes to a local file, which appears complete and verified or not at all.

    Raises:
        ObjectMissing: The data set was refused or deleted, or its bytes are lost.
        ObjectCorrupt: The stored bytes have changed.
        StoreUnavailable: The store does not answer.
    """
    if dataset.object_key is None:
        raise ObjectMissing(f"The bytes of {dataset.reference} are gone.")
    return store.fetch(dataset.object_key, path, sha256=dataset.sha256)


def sweep(*, store: Store, database: Database, older_than: timedelta = ORPHAN_AGE) -> int:
    """Remove uploaded bytes that no row points to, left by a crash before the row; gives how many objects."""
    removed = store.drop_scratch(older_than=older_than)
    batch: list[str] = []
    for key in store.older_than(older_than, prefix="blobs"):
        batch.append(key)
        if len(batch) == 100:
            removed += _sweep_batch(batch, store, database)
            batch.clear()
    return removed + _sweep_batch(batch, store, database)


def _sweep_batch(keys: list[str], store: Store, database: Database) -> int:
    with snapshot(database) as tx:
        orphans = tx.datasets.unreferenced(keys)
    for orphan in orphans:
        store.delete(orphan)
    return len(orphans)


def _register(offer: _Offer, store: Store, database: Database) -> Registered:
    spare = offer.arrived.received.key
    try:
        with transaction(database) as tx:
            registered = _registered(tx, offer)
    except Unavailable:
        raise  # the commit may have come through: the bytes stay until a sweep knows
    except Problem:
        store.delete(spare)
        raise
    if registered.dataset.object_key != spare:
        store.delete(spare)
    return registered


def _registered(tx: Transaction, offer: _Offer) -> Registered:
    project_id, received = offer.caller.project_id, offer.arrived.received
    earlier = idempotency.replay(tx, project_id=project_id, key=offer.key, request_sha256=_request_sha256(offer))
    if earlier is not None:
        dataset = tx.datasets.made(json.loads(earlier.response)["id"])
        return Registered(dataset=dataset, answer=earlier, created=earlier.status != FOUND, replayed=True)
    tx.projects.lock_names(project_id)
    there = tx.datasets.same(offer.arrived.name, received.sha256, project_id=project_id)
    dataset = there or tx.datasets.add(_row(offer, object_key=tx.datasets.object_of(received.sha256) or received.key))
    status = PENDING if dataset.status == "processing" else CREATED if there is None else FOUND
    answer = Stored(status=status, response=offer.show(dataset))
    idempotency.remember(tx, project_id=project_id, key=offer.key, answer=answer)
    return Registered(dataset=dataset, answer=answer, created=there is None)


def _row(offer: _Offer, *, object_key: str) -> Dataset:
    received, inspection = offer.arrived.received, offer.arrived.inspection
    return Dataset(
        id=ids.new("ds"),
        project_id=offer.caller.project_id,
        created_by=offer.caller.key_id,
        name=offer.arrived.name,
        version=0,
        status="processing" if inspection is None else "ready",
        filename=uploads.display_name(offer.arrived.upload.filename),
        sha256=received.sha256,
        bytes=received.bytes,
        summary=None if inspection is None else inspection.summary,
        findings=() if inspection is None else inspection.findings,
        metadata=dict(offer.arrived.upload.metadata),
        created_at=wall(),
        object_key=object_key,
    )


def _request_sha256(offer: _Offer) -> str:
    said = {
        "route": "POST /datasets",
        "name": offer.arrived.name,
        "metadata": dict(offer.arrived.upload.metadata),
        "sha256": offer.arrived.received.sha256,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _found(tx: Transaction, dataset_id: str, caller: Caller) -> Dataset:
    is_id = ids.is_id(dataset_id, "ds")
    dataset = tx.datasets.get(dataset_id, project_id=caller.project_id) if is_id else None
    if dataset is None:
        raise DatasetNotFound(f"There is no data set {dataset_id[:60]!r}.")
    return dataset
