"""Inspections that an upload did not wait for: any process may finish them, a lease makes it one at a time."""

import asyncio
from typing import Final

from core.db.transactions import Database, transaction
from core.domain import reports
from core.domain.datasets import Dataset, Inspection
from core.errors import Finding
from core.services import leased
from core.services.inspectors import DATASETS, InspectionFailed, Inspector
from core.services.leased import Desk, Gone
from core.storage.objects import ObjectMissing, Store

TRIES: Final = 2


def finish_pending(*, store: Store, database: Database, lease_s: float) -> int:
    """Inspect every data set that is `processing` and held by nobody; gives how many.

    Blocks while it works: call it from a thread of its own, again and again. A process that dies meanwhile leaves
    a lease that runs out.

    Raises:
        Unavailable: The database or the store does not answer; what was claimed comes back after its lease.
    """
    desk = Desk(store=store, database=database, lease_s=lease_s)
    finished = 0
    while True:
        with transaction(database) as tx:
            pending = tx.datasets.claim_pending(lease_s=lease_s)
        if pending is None:
            return finished
        try:
            outcome = asyncio.run(_inspected(pending, desk))
        except Gone:
            continue
        with transaction(database) as tx:
            tx.datasets.lock_bytes(pending.sha256)
            unneeded = tx.datasets.settle(pending.id, outcome)
        if unneeded is not None:
            store.delete(unneeded)
        finished += 1


async def _inspected(dataset: Dataset, desk: Desk) -> Inspection:
    for _ in range(TRIES):
        try:
            return await _inspected_once(dataset, desk)
        except ObjectMissing:
            return reports.refused(
                Finding(code="bytes_missing", message="The stored bytes are lost.", hint="Upload the file again.")
            )
        except InspectionFailed:
            continue
    return reports.refused(
        Finding(
            code="inspection_failed",
            message="The process that reads the file was ended every time.",
            hint="Upload the file in parts; if that fails too, tell whoever runs this service.",
        )
    )


async def _inspected_once(dataset: Dataset, desk: Desk) -> Inspection:
    async with Inspector.started(DATASETS, limit_bytes=dataset.bytes) as inspector:
        return await leased.read(dataset, inspector, desk)
