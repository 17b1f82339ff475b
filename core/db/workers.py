"""Workers that have registered, and when each was last seen."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, select, update

from core.db import tables
from core.db.clocks import LeaseClock
from core.db.dialects import upsert
from core.domain.workers import ALIVE_S, WorkerInfo

_t = tables.workers
KEPT_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Workers:
    """The table of workers. `last_seen` is by the database's clock, as workers may run on many hosts."""

    connection: Connection
    clock: LeaseClock

    def put(self, worker: WorkerInfo) -> None:
        """Insert a worker, or replace what is known of it."""
        values: dict[str, Any] = {
            "id": worker.id,
            "host": worker.host,
            "device": worker.device,
            "memory_bytes": worker.memory_bytes,
            "bases": list(worker.bases),
            "capabilities": list(worker.capabilities),
            "draining": worker.draining,
            "started_at": worker.started_at,
            "last_seen": self.clock.wall(),
        }
        statement = upsert(self.connection, _t).values(**values)
        changed = {name: statement.excluded[name] for name in values if name != "id"}
        self.connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))

    def seen(self, worker: WorkerInfo) -> bool:
        """Note that a worker lives, and what changes while it does; False when it must register again."""
        values = {"last_seen": self.clock.wall(), "draining": worker.draining, "bases": list(worker.bases)}
        return self.connection.execute(update(_t).where(_t.c.id == worker.id).values(**values)).rowcount == 1

    def remove(self, worker_id: str) -> None:
        """Forget a worker that has ended in order."""
        self.connection.execute(delete(_t).where(_t.c.id == worker_id))

    def all(self) -> tuple[WorkerInfo, ...]:
        """List every worker, the latest started first."""
        return self._read()

    def alive(self) -> tuple[WorkerInfo, ...]:
        """List the workers seen lately."""
        return self._read(_t.c.last_seen > self.clock.wall() - ALIVE_S)

    def purge(self) -> int:
        """Forget workers that have not been seen for a day; give their number."""
        return self.connection.execute(delete(_t).where(_t.c.last_seen < self.clock.wall() - KEPT_S)).rowcount

    def _read(self, *conditions: ColumnElement[bool]) -> tuple[WorkerInfo, ...]:
        rows = select(_t).where(*conditions).order_by(_t.c.id.desc())
        return tuple(_worker(row) for row in self.connection.execute(rows))


def _worker(row: Row[Any]) -> WorkerInfo:
    return WorkerInfo(
        id=row.id,
        host=row.host,
        device=row.device,
        memory_bytes=row.memory_bytes,
        bases=tuple(row.bases),
        capabilities=tuple(row.capabilities),
        draining=row.draining,
        started_at=row.started_at,
        last_seen=row.last_seen,
    )
