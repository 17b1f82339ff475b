"""Inspections that an upload did not wait for: any process may finish them, a lease makes it one at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from core.db.transactions import Database, transaction
from core.domain import inspections
from core.domain.datasets import Dataset, Inspection
from core.errors import Finding
from core.services.inspectors import DATASETS, PIECE_BYTES, InspectionFailed, Inspector
from core.storage.objects import ObjectMissing, Store

LEASE_S: Final = 60.0
TRIES: Final = 2
PATIENCE_S: Final = 3600.0


class _Gone(Exception):
    """The data set was deleted, or someone else has finished it."""


def finish_pending(*, store: Store, database: Database, lease_s: float = LEASE_S) -> int:
    """Inspect every data set that is `processing` and held by nobody; gives how many.

    Blocks while it works: call it from a thread of its own, again and again. A process that dies meanwhile leaves
    a lease that runs out.

    Raises:
        Unavailable: The database or the store does not answer; what was claimed comes back after its lease.
    """
    finished = 0
    while True:
        with transaction(database) as tx:
            pending = tx.datasets.claim_pending(lease_s=lease_s)
        if pending is None:
            return finished
        try:
            outcome = asyncio.run(_inspected(pending, store, database, lease_s))
        except _Gone:
            continue
        with transaction(database) as tx:
            unneeded = tx.datasets.settle(pending.id, outcome)
        if unneeded is not None:
            store.delete(unneeded)
        finished += 1


async def _inspected(dataset: Dataset, store: Store, database: Database, lease_s: float) -> Inspection:
    for _ in range(TRIES):
        try:
            return await _inspected_once(dataset, store, database, lease_s)
        except ObjectMissing:
            return inspections.refused(
                Finding(code="bytes_missing", message="The stored bytes are lost.", hint="Upload the file again.")
            )
        except InspectionFailed:
            continue
    return inspections.refused(
        Finding(
            code="inspection_failed",
            message="The process that reads the file was ended every time.",
            hint="Upload the file in parts; if that fails too, tell whoever runs this service.",
        )
    )


async def _inspected_once(dataset: Dataset, store: Store, database: Database, lease_s: float) -> Inspection:
    async with Inspector.started(DATASETS, limit_bytes=dataset.bytes) as inspector:
        async for piece in _renewing(dataset, store, database, lease_s):
            await inspector.feed(piece, patience_s=PATIENCE_S)
            if inspector.is_decided:
                break
        # Parquet and packed files are read long after their last byte has gone.
        while (outcome := await inspector.outcome(patience_s=lease_s / 3)) is None:
            _renew(dataset, database, lease_s)
        return outcome


def _renew(dataset: Dataset, database: Database, lease_s: float) -> None:
    with transaction(database) as tx:
        if not tx.datasets.renew(dataset.id, lease_s=lease_s):
            raise _Gone


async def _renewing(dataset: Dataset, store: Store, database: Database, lease_s: float) -> AsyncIterator[bytes]:
    """Read the bytes; blocking is fine, as this loop serves nobody else."""
    due = time.monotonic() + lease_s / 3
    for chunk in store.chunks(dataset.object_key or ""):
        if time.monotonic() > due:
            _renew(dataset, database, lease_s)
            due = time.monotonic() + lease_s / 3
        for start in range(0, len(chunk), PIECE_BYTES):
            yield chunk[start : start + PIECE_BYTES]
