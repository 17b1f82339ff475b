"""API keys. The table has no secret: only an HMAC under the service's pepper."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, func, or_, select, update

from core.db import lists, tables
from core.db.clocks import wall
from core.db.dialects import insert_new
from core.domain.keys import ApiKey, Role
from core.domain.pages import Filters, Page

_t = tables.keys
TOUCH_S: Final = 60


@dataclass(frozen=True, slots=True)
class Keys:
    """The table of keys."""

    connection: Connection

    def add(self, key: ApiKey, *, secret_hash: str) -> bool:
        """Insert a key; False when one with the same secret is there already."""
        values = {
            "id": key.id,
            "project_id": key.project_id,
            "name": key.name,
            "role": key.role.value,
            "hash": secret_hash,
            "hint": key.hint,
            "created_by": key.created_by,
            "created_at": key.created_at,
        }
        return insert_new(self.connection, _t, values)

    def hashed(self, secret_hash: str) -> tuple[ApiKey, str] | None:
        """Find the key whose secret has this hash, revoked or not, with the hash that is stored."""
        row = self.connection.execute(_HASHED, {"secret_hash": secret_hash}).one_or_none()
        return None if row is None else (_key(row), row.hash)

    def get(self, key_id: str, *, project_id: str) -> ApiKey | None:
        """Find a key of a project."""
        row = self.connection.execute(_keys().where(_t.c.id == key_id, _t.c.project_id == project_id)).one_or_none()
        return None if row is None else _key(row)

    def page(self, filters: Filters, *, project_id: str, after: str | None) -> Page[ApiKey]:
        """List a project's keys. `status` may be `active` or `revoked`."""
        rows = _keys().where(_t.c.project_id == project_id)
        if filters.status is not None:
            revoked = _t.c.revoked_at.is_not(None)
            rows = rows.where(revoked if filters.status == "revoked" else ~revoked)
        return lists.page(self.connection, rows, _t, filters, after=after, value=_key)

    def revoke(self, key_id: str) -> None:
        """Mark a key as revoked; the first time counts."""
        values = {"revoked_at": func.coalesce(_t.c.revoked_at, wall())}
        self.connection.execute(update(_t).where(_t.c.id == key_id).values(**values))

    def touch(self, key_id: str) -> None:
        """Note that a key was used, at most once a minute."""
        now = wall()
        stale = or_(_t.c.last_used_at.is_(None), _t.c.last_used_at <= now - TOUCH_S)
        self.connection.execute(update(_t).where(_t.c.id == key_id, stale).values(last_used_at=now))


def _keys() -> Select[Any]:
    return select(_t, tables.projects.c.name.label("project")).join(tables.projects)


_HASHED: Final = _keys().where(_t.c.hash == bindparam("secret_hash"))
"""Put together once: every request asks it, and putting it together costs more than asking."""


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        project_id=row.project_id,
        project=row.project,
        role=Role(row.role),
        name=row.name,
        hint=row.hint,
        created_at=row.created_at,
        created_by=row.created_by,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
