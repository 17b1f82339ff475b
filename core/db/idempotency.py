"""Idempotency keys: the first transaction that inserts a key owns it until it commits."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.exc import OperationalError

from core.db import tables
from core.db.clocks import wall
from core.db.dialects import insert_new

_t = tables.idempotency
KEPT_S: Final = 24 * 3600
LOCK_NOT_AVAILABLE: Final = "55P03"


class KeyHeld(Exception):
    """Another transaction has inserted the same key and has not ended yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A key that came before; `response` is None until the first request has answered."""

    request_sha256: str
    status: int | None
    response: str | None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The table of idempotency keys."""

    connection: Connection

    def begin(self, key: str, *, project_id: str, request_sha256: str) -> KeyRow | None:
        """Take a key for this transaction (None), or read what it stands for already.

        Raises:
            KeyHeld: Another transaction took it and is still open.
        """
        mine = (_t.c.project_id == project_id, _t.c.key == key)
        values = {"project_id": project_id, "key": key, "request_sha256": request_sha256, "created_at": wall()}
        try:
            self.connection.execute(delete(_t).where(*mine, _t.c.created_at < wall() - KEPT_S))
            if insert_new(self.connection, _t, values):
                return None
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
                raise KeyHeld from error
            raise
        row = self.connection.execute(select(_t).where(*mine)).one()
        return KeyRow(request_sha256=row.request_sha256, status=row.status, response=row.response)

    def finish(self, key: str, *, project_id: str, status: int, response: str) -> None:
        """Keep what was answered."""
        mine = (_t.c.project_id == project_id, _t.c.key == key)
        self.connection.execute(update(_t).where(*mine).values(status=status, response=response))

    def purge(self) -> int:
        """Forget keys older than a day; give their number."""
        return self.connection.execute(delete(_t).where(_t.c.created_at < wall() - KEPT_S)).rowcount
