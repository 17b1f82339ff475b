"""A job's append-only log. Numbers come from the job's row, under its lock, so that there are no gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from core.db import tables
from core.domain.jobs import Event, Metric
from core.domain.pages import Page

_t = tables.events


@dataclass(frozen=True, slots=True)
class Events:
    """The table of events."""

    connection: Connection

    def add(self, event: Event) -> None:
        """Append one event under the number that its job's row gave."""
        values = {
            "job_id": event.job_id,
            "seq": event.seq,
            "type": event.type,
            "level": event.level,
            "message": event.message,
            "data": dict(event.data),
            "created_at": event.created_at,
        }
        self.connection.execute(insert(_t).values(**values))

    def page(self, job_id: str, *, after_seq: int, limit: int) -> Page[Event]:
        """Read events in the order they happened, after the number `after_seq`."""
        rows = select(_t).where(_t.c.job_id == job_id, _t.c.seq > after_seq).order_by(_t.c.seq).limit(limit + 1)
        found = self.connection.execute(rows).all()
        return Page(tuple(_event(row) for row in found[:limit]), has_more=len(found) > limit)

    def metrics(self, job_id: str) -> tuple[Metric, ...]:
        """Read everything that was measured, in the order of measurement."""
        return tuple(_metric(row) for row in self._measured(job_id))

    def trained_tokens(self, job_id: str, *, step: int) -> int:
        """Give the tokens that the job had trained when it last spoke of a step up to this one."""
        spoken = [metric for metric in self._measured(job_id) if metric.data["step"] <= step]
        return max((row.data.get("trained_tokens") or 0 for row in spoken), default=0)

    def _measured(self, job_id: str) -> Sequence[Row[Any]]:
        rows = select(_t).where(_t.c.job_id == job_id, _t.c.type == "metrics").order_by(_t.c.seq)
        return self.connection.execute(rows).all()


def _event(row: Row[Any]) -> Event:
    return Event(
        job_id=row.job_id,
        seq=row.seq,
        type=row.type,
        level=row.level,
        message=row.message,
        created_at=row.created_at,
        data=row.data,
    )


def _metric(row: Row[Any]) -> Metric:
    return Metric(
        step=row.data["step"],
        epoch=row.data["epoch"],
        loss=row.data.get("loss"),
        learning_rate=row.data.get("learning_rate"),
        grad_norm=row.data.get("grad_norm"),
        tokens_per_second=row.data.get("tokens_per_second"),
        eval_loss=row.data.get("eval_loss"),
        created_at=row.created_at,
    )
