"""Imported bases. Rows only: their files are in the object store."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, or_, select

from core.db import lists, tables
from core.db.dialects import insert_new
from core.domain.adapters import AdapterFile
from core.domain.bases import Base
from core.domain.pages import Filters, Page

_t = tables.bases


@dataclass(frozen=True, slots=True)
class Bases:
    """The table of bases; they belong to no project."""

    connection: Connection

    def add(self, base: Base) -> bool:
        """Insert a base; False when its name is taken."""
        values = asdict(base) | {"files": [asdict(file) for file in base.files], "metadata": dict(base.metadata)}
        return insert_new(self.connection, _t, values)

    def get(self, id_or_name: str) -> Base | None:
        """Find a base by its id or its name."""
        rows = select(_t).where(or_(_t.c.id == id_or_name, _t.c.name == id_or_name))
        row = self.connection.execute(rows).one_or_none()
        return None if row is None else _base(row)

    def called(self, name: str) -> Base | None:
        """Find a base whose name differs from `name` in upper and lower case at most."""
        row = self.connection.execute(select(_t).where(func.lower(_t.c.name) == name.lower())).first()
        return None if row is None else _base(row)

    def first(self, limit: int | None) -> tuple[Base, ...]:
        """Give the oldest bases; no limit gives all."""
        return tuple(_base(row) for row in self.connection.execute(select(_t).order_by(_t.c.id).limit(limit)))

    def hashes(self) -> set[str]:
        """Give the hashes of all files that a base has."""
        return {file["sha256"] for files in self.connection.execute(select(_t.c.files)).scalars() for file in files}

    def parameters(self, base_ids: Iterable[str]) -> dict[str, int]:
        """Give the size of some bases, by id."""
        rows = self.connection.execute(select(_t.c.id, _t.c.parameters).where(_t.c.id.in_(set(base_ids))))
        return {row.id: row.parameters for row in rows}

    def page(self, filters: Filters, *, after: str | None) -> Page[Base]:
        """List bases, newest first."""
        return lists.page(self.connection, select(_t), _t, filters, after=after, value=_base)


def _base(row: Row[Any]) -> Base:
    return Base(
        id=row.id,
        name=row.name,
        fingerprint=row.fingerprint,
        template_hash=row.template_hash,
        context_length=row.context_length,
        parameters=row.parameters,
        bytes=row.bytes,
        files=tuple(AdapterFile(**file) for file in row.files),
        metadata=row.metadata,
        created_at=row.created_at,
    )
