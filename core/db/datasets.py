"""Data sets. Rows only: their bytes are in the object store, where rows of equal bytes share one object."""

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, exists, func, insert, or_, select, update

from core.db import lists, tables
from core.db.clocks import LeaseClock, wall
from core.domain import ids
from core.domain.datasets import Dataset, DatasetFinding, Inspection, Summary
from core.domain.jobs import ENDED
from core.domain.pages import Filters, Page

_t = tables.datasets
_jobs = tables.jobs
_living: Final = _t.c.deleted_at.is_(None)
REFERENCE: Final = re.compile(r"(?P<name>[^@\0]{1,64})(@(?P<version>[1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class Datasets:
    """The table of data sets. A deleted one is a tombstone that only `made` finds."""

    connection: Connection
    clock: LeaseClock

    def add(self, dataset: Dataset) -> Dataset:
        """Insert a data set under the next version of its name, and give it back with that version."""
        named = (_t.c.project_id == dataset.project_id, _t.c.name == dataset.name)
        last = self.connection.execute(select(func.max(_t.c.version)).where(*named)).scalar_one()
        added = replace(dataset, version=(last or 0) + 1)
        values = asdict(added) | {"metadata": dict(added.metadata)}
        self.connection.execute(insert(_t).values(**values, boot_id=self.clock.boot_id))
        return added

    def get(self, dataset_id: str, *, project_id: str) -> Dataset | None:
        """Find a data set by its id."""
        mine = (_t.c.id == dataset_id, _t.c.project_id == project_id, _living)
        return _one(self.connection.execute(select(_t).where(*mine)).one_or_none())

    def made(self, dataset_id: str) -> Dataset:
        """Find a data set or its tombstone."""
        return _dataset(self.connection.execute(select(_t).where(_t.c.id == dataset_id)).one())

    def named(self, name: str, version: int | None, *, project_id: str) -> Dataset | None:
        """Find `name@version`, or without `version` the newest of that name that was not refused."""
        rows = select(_t).where(_t.c.name == name, _t.c.project_id == project_id, _living)
        rows = rows.where(_t.c.status != "invalid") if version is None else rows.where(_t.c.version == version)
        return _one(self.connection.execute(rows.order_by(_t.c.version.desc()).limit(1)).one_or_none())

    def referred(self, reference: str, *, project_id: str) -> Dataset | None:
        """Find what `ds_…`, `name` (its newest version) or `name@N` means."""
        if ids.is_id(reference, "ds"):
            return self.get(reference, project_id=project_id)
        spelled = REFERENCE.fullmatch(reference)
        if spelled is None:
            return None
        version = None if spelled["version"] is None else int(spelled["version"])
        return self.named(spelled["name"], version, project_id=project_id)

    def same(self, name: str, sha256: str, *, project_id: str) -> Dataset | None:
        """Find the newest version of a name that has these bytes and was not refused."""
        mine = (_t.c.project_id == project_id, _t.c.name == name, _t.c.sha256 == sha256, _living)
        rows = select(_t).where(*mine, _t.c.status != "invalid").order_by(_t.c.version.desc()).limit(1)
        return _one(self.connection.execute(rows).one_or_none())

    def object_of(self, sha256: str) -> str | None:
        """Find where these bytes lie already, and keep that row from being deleted until the transaction ends."""
        rows = select(_t.c.object_key).where(_t.c.sha256 == sha256, _t.c.object_key.is_not(None), _living)
        return self.connection.execute(rows.order_by(_t.c.id).limit(1).with_for_update()).scalar_one_or_none()

    def page(self, filters: Filters, *, project_id: str, after: str | None) -> Page[Dataset]:
        """List a project's data sets."""
        rows = select(_t).where(_t.c.project_id == project_id, _living)
        if filters.status is not None:
            rows = rows.where(_t.c.status == filters.status)
        return lists.page(self.connection, rows, _t, filters, after=after, value=_dataset)

    def hold(self, dataset_id: str) -> bool:
        """Lock a living data set against deletion until the transaction ends; False when there is none."""
        rows = select(_t.c.id).where(_t.c.id == dataset_id, _living)
        return self.connection.execute(rows.with_for_update(read=True)).first() is not None

    def jobs_needing(self, dataset_id: str) -> tuple[str, ...]:
        """List jobs that train or validate on a data set and have not ended."""
        needs = or_(_jobs.c.dataset_id == dataset_id, _jobs.c.validation_dataset_id == dataset_id)
        ended = [status.value for status in ENDED]
        rows = select(_jobs.c.id).where(needs, _jobs.c.status.not_in(ended)).order_by(_jobs.c.id)
        return tuple(self.connection.execute(rows).scalars())

    def seize(self, dataset_id: str) -> None:
        """Lock a data set alone, so that no job can begin to need it while we look."""
        self.connection.execute(select(_t.c.id).where(_t.c.id == dataset_id).with_for_update()).one()

    def bury(self, dataset_id: str) -> str | None:
        """Turn a data set into its tombstone; give the key of its bytes if nobody else needs them."""
        key = self._key(dataset_id)
        values = {"deleted_at": wall(), "object_key": None}
        self.connection.execute(update(_t).where(_t.c.id == dataset_id).values(**values))
        return self._unless_shared(key)

    def claim_pending(self, *, lease_s: float) -> Dataset | None:
        """Take the oldest data set that waits for its inspection and that no living process holds."""
        waiting = _t.alias("waiting")
        free = or_(waiting.c.lease_until < self.clock.now(), waiting.c.boot_id != self.clock.boot_id)
        oldest = (
            select(waiting.c.id)
            .where(waiting.c.status == "processing", waiting.c.deleted_at.is_(None), free)
            .order_by(waiting.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        taken = update(_t).where(_t.c.id == oldest).values(**self._lease(lease_s)).returning(_t)
        return _one(self.connection.execute(taken).one_or_none())

    def renew(self, dataset_id: str, *, lease_s: float) -> bool:
        """Prolong a claim; False when there is nothing left to inspect."""
        waiting = (_t.c.id == dataset_id, _t.c.status == "processing", _living)
        return self.connection.execute(update(_t).where(*waiting).values(**self._lease(lease_s))).rowcount == 1

    def settle(self, dataset_id: str, inspection: Inspection) -> str | None:
        """Write the outcome of a late inspection; give the key of bytes that nobody needs any more.

        Equal bytes have equal outcomes, so that it does no harm if two processes come to it.
        """
        values: dict[str, Any] = {
            "status": "ready" if inspection.is_acceptable else "invalid",
            "summary": asdict(inspection.summary),
            "findings": [asdict(finding) for finding in inspection.findings],
        }
        key = self._key(dataset_id)
        if not inspection.is_acceptable:
            values["object_key"] = None
        waiting = (_t.c.id == dataset_id, _t.c.status == "processing", _living)
        changed = self.connection.execute(update(_t).where(*waiting).values(**values)).rowcount == 1
        return self._unless_shared(key) if changed and not inspection.is_acceptable else None

    def unreferenced(self, keys: Collection[str]) -> tuple[str, ...]:
        """Of these object keys, give those that no row points to."""
        used = set(self.connection.execute(select(_t.c.object_key).where(_t.c.object_key.in_(keys))).scalars())
        return tuple(key for key in keys if key not in used)

    def _lease(self, lease_s: float) -> dict[str, Any]:
        return {"lease_until": self.clock.now() + lease_s, "boot_id": self.clock.boot_id}

    def _key(self, dataset_id: str) -> str | None:
        rows = select(_t.c.object_key).where(_t.c.id == dataset_id)
        return self.connection.execute(rows).scalar_one_or_none()

    def _unless_shared(self, key: str | None) -> str | None:
        if key is None or self.connection.execute(select(exists().where(_t.c.object_key == key))).scalar_one():
            return None
        return key


def _one(row: Row[Any] | None) -> Dataset | None:
    return None if row is None else _dataset(row)


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(
        id=row.id,
        project_id=row.project_id,
        created_by=row.created_by,
        name=row.name,
        version=row.version,
        status=row.status,
        filename=row.filename,
        sha256=row.sha256,
        bytes=row.bytes,
        summary=None if row.summary is None else Summary(**(row.summary | {"columns": tuple(row.summary["columns"])})),
        findings=tuple(DatasetFinding(**finding) for finding in row.findings),
        metadata=row.metadata,
        created_at=row.created_at,
        object_key=row.object_key,
    )
