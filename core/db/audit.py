"""Who changed keys, aliases and what was deleted: append-only."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert

from core.db import tables
from core.db.clocks import wall


@dataclass(frozen=True, slots=True)
class Audit:
    """The table of audit rows."""

    connection: Connection

    def add(
        self, action: str, target: str, *, project_id: str, key_id: str | None, details: Mapping[str, str] | None = None
    ) -> None:
        """Note one change. `key_id` is who made it; None is the service itself."""
        row = insert(tables.audit).values(
            project_id=project_id,
            key_id=key_id,
            action=action,
            target=target,
            details=dict(details or {}),
            created_at=wall(),
        )
        self.connection.execute(row)
