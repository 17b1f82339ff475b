"""Published checkpoints. A row makes one visible; folders are never listed."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, select, update

from core.db import tables
from core.db.clocks import wall
from core.db.dialects import insert_new
from core.domain.jobs import Checkpoint

_t = tables.checkpoints


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The table of checkpoints: `ready`, found `corrupt`, or `dropped` for newer ones."""

    connection: Connection

    def add(self, checkpoint: Checkpoint) -> bool:
        """Insert a verified checkpoint; False when this attempt published this step before."""
        values = {
            "job_id": checkpoint.job_id,
            "step": checkpoint.step,
            "attempt": checkpoint.attempt,
            "manifest_sha256": checkpoint.manifest_sha256,
            "bytes": checkpoint.bytes,
            "state": "ready",
            "created_at": wall(),
        }
        return insert_new(self.connection, _t, values)

    def ready(self, job_id: str) -> tuple[Checkpoint, ...]:
        """List the checkpoints of a job that can be resumed from, the furthest first."""
        rows = select(_t).where(_t.c.job_id == job_id, _t.c.state == "ready")
        ordered = rows.order_by(_t.c.step.desc(), _t.c.attempt.desc())
        return tuple(_checkpoint(row) for row in self.connection.execute(ordered))

    def manifests(self) -> set[str]:
        """Give the manifests' hashes of all checkpoints that can be resumed from, of whatever job."""
        return set(self.connection.execute(select(_t.c.manifest_sha256).where(_t.c.state == "ready")).scalars())

    def set_state(self, checkpoint: Checkpoint, state: Literal["corrupt", "dropped"]) -> None:
        """Take a checkpoint out of use."""
        mine = (
            _t.c.job_id == checkpoint.job_id,
            _t.c.step == checkpoint.step,
            _t.c.attempt == checkpoint.attempt,
        )
        self.connection.execute(update(_t).where(*mine).values(state=state))


def _checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(
        job_id=row.job_id,
        step=row.step,
        attempt=row.attempt,
        manifest_sha256=row.manifest_sha256,
        bytes=row.bytes,
        created_at=row.created_at,
    )
