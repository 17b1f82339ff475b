"""Stored bytes read by a process of their own while a lease keeps other readers away."""

import asyncio
from dataclasses import dataclass
from typing import Final, TypeVar

from core.db.transactions import Database, transaction
from core.domain.datasets import Dataset
from core.services.inspectors import PIECE_BYTES, InspectionFailed, Inspector
from core.storage.objects import Store

PATIENCE_S: Final = 3600.0
Report = TypeVar("Report")


class Gone(Exception):
    """The data set was deleted, or someone else has finished it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where claimed data sets are read: their bytes, their rows, and how long a claim holds."""

    store: Store
    database: Database
    lease_s: float


async def read(dataset: Dataset, reader: Inspector[Report], desk: Desk, *, first: bytes = b"") -> Report:
    """Feed a claimed data set's bytes to a process, renewing the claim, and give its report.

    Args:
        dataset: As claimed.
        reader: The process.
        desk: Where to read.
        first: What the process gets before the bytes.

    Raises:
        Gone: There is nothing left to do.
        InspectionFailed: The process ended without a report.
        ObjectMissing: The bytes are lost.
        Unavailable: The database or the store does not answer.
    """
    reading = asyncio.create_task(_read(dataset, reader, desk, first))
    try:
        # A process that takes nothing for a while, or reads long after its last byte has come, is still at work.
        while not (await asyncio.wait({reading}, timeout=desk.lease_s / 3))[0]:
            _renew(dataset, desk)
        return await reading
    finally:
        reading.cancel()


async def _read(dataset: Dataset, reader: Inspector[Report], desk: Desk, first: bytes) -> Report:
    if first:
        await reader.feed(first, patience_s=PATIENCE_S)
    chunks = desk.store.chunks(dataset.object_key or "")
    # In a thread: a store that is slow, or a reader that is quicker than it, would keep the claim from being renewed.
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        for start in range(0, len(chunk), PIECE_BYTES):
            await reader.feed(chunk[start : start + PIECE_BYTES], patience_s=PATIENCE_S)
        if reader.is_decided:
            break
    if (outcome := await reader.outcome(patience_s=PATIENCE_S)) is None:
        raise InspectionFailed("The process that reads the file stands still; try again.", retry_after_s=5.0)
    return outcome


def _renew(dataset: Dataset, desk: Desk) -> None:
    with transaction(desk.database) as tx:
        if not tx.datasets.renew(dataset.id, lease_s=desk.lease_s):
            raise Gone
