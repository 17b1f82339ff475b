"""Messages that a transaction wants sent once it has committed; core/wake.py sends them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, delete, insert, select, update

from core.db import tables
from core.db.clocks import wall

_t = tables.outbox
KEPT_S: Final = 24 * 3600
Kind = Literal["wake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """One message still to be sent."""

    id: int
    kind: Kind
    job_id: str


@dataclass(frozen=True, slots=True)
class Outbox:
    """The table of messages to send."""

    connection: Connection

    def add(self, kind: Kind, *, job_id: str) -> None:
        """Leave a message about a job."""
        row = insert(_t).values(kind=kind, payload={"job_id": job_id}, created_at=wall())
        self.connection.execute(row)

    def unsent(self, limit: int) -> Sequence[Unsent]:
        """Read the oldest messages that nobody has marked as sent."""
        rows = select(_t).where(_t.c.sent_at.is_(None)).order_by(_t.c.id).limit(limit)
        return [Unsent(id=row.id, kind=row.kind, job_id=row.payload["job_id"]) for row in self.connection.execute(rows)]

    def mark(self, ids: Iterable[int]) -> None:
        """Mark messages as sent."""
        self.connection.execute(update(_t).where(_t.c.id.in_(list(ids))).values(sent_at=wall()))

    def purge(self) -> int:
        """Forget messages older than a day, sent or not: a hint that old helps nobody; give their number."""
        return self.connection.execute(delete(_t).where(_t.c.created_at < wall() - KEPT_S)).rowcount
