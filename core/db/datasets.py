"""Data sets. Rows only: their bytes are in the object store."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from core.db import tables
from core.db.clocks import LeaseClock
from core.domain.datasets import Dataset, DatasetFinding, Summary

_t = tables.datasets


@dataclass(frozen=True, slots=True)
class Datasets:
    """The table of data sets. A deleted one is a tombstone that no query finds."""

    connection: Connection
    clock: LeaseClock

    def add(self, dataset: Dataset, *, object_key: str | None) -> None:
        """Insert a data set."""
        values = asdict(dataset) | {"metadata": dict(dataset.metadata), "object_key": object_key}
        self.connection.execute(insert(_t).values(**values))

    def get(self, dataset_id: str, *, project_id: str) -> Dataset | None:
        """Find a data set by its id."""
        mine = (_t.c.id == dataset_id, _t.c.project_id == project_id, _t.c.deleted_at.is_(None))
        row = self.connection.execute(select(_t).where(*mine)).one_or_none()
        return None if row is None else _dataset(row)

    def named(self, name: str, version: int | None, *, project_id: str) -> Dataset | None:
        """Find `name@version`, or without `version` the newest of that name."""
        rows = select(_t).where(_t.c.name == name, _t.c.project_id == project_id, _t.c.deleted_at.is_(None))
        if version is not None:
            rows = rows.where(_t.c.version == version)
        row = self.connection.execute(rows.order_by(_t.c.version.desc()).limit(1)).one_or_none()
        return None if row is None else _dataset(row)

    def hold(self, dataset_id: str) -> bool:
        """Lock a living data set against deletion until the transaction ends; False when there is none."""
        rows = select(_t.c.id).where(_t.c.id == dataset_id, _t.c.deleted_at.is_(None))
        return self.connection.execute(rows.with_for_update(read=True)).first() is not None


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
    )
