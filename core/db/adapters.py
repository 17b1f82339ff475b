"""The registry: immutable adapters, their version numbers, and aliases that move."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, case, delete, insert, select, update

from core.db import lists, tables
from core.db.clocks import wall
from core.db.dialects import upsert
from core.domain.adapters import Adapter, AdapterFile
from core.domain.pages import Filters, Page

_t = tables.adapters
_versions = tables.adapter_versions
_aliases = tables.aliases


@dataclass(frozen=True, slots=True)
class Adapters:
    """The tables of adapters, versions and aliases. A deleted adapter is a tombstone that no query finds."""

    connection: Connection

    def next_version(self, name: str, *, project_id: str) -> int:
        """Give the next version number of a name. Numbers of deleted adapters never come again."""
        statement = upsert(self.connection, _versions).values(project_id=project_id, name=name, last_version=1)
        counted = statement.on_conflict_do_update(
            index_elements=["project_id", "name"], set_={"last_version": _versions.c.last_version + 1}
        )
        given: int = self.connection.execute(counted.returning(_versions.c.last_version)).scalar_one()
        return given

    def add(self, adapter: Adapter) -> None:
        """Insert an adapter; a second final one of a job breaks on the table's own rule."""
        values = asdict(adapter)
        del values["aliases"]
        values["manifest_sha256"] = values.pop("sha256")
        values["files"] = [asdict(file) for file in adapter.files]
        values["metadata"] = dict(adapter.metadata)
        self.connection.execute(insert(_t).values(**values))

    def get(self, adapter_id: str, *, project_id: str) -> Adapter | None:
        """Find an adapter by its id."""
        return self._one(_t.c.id == adapter_id, project_id=project_id)

    def final_of(self, job_id: str) -> Adapter | None:
        """Find the final adapter of a job, of whatever project."""
        row = self.connection.execute(select(_t).where(_t.c.job_id == job_id, _t.c.kind == "final")).one_or_none()
        return None if row is None else self._with_aliases([row])[0]

    def newest(self, name: str, *, project_id: str) -> Adapter | None:
        """Find the highest version of a name."""
        return self._one(_t.c.name == name, _t.c.version.is_not(None), project_id=project_id)

    def same(self, like: Adapter) -> Adapter | None:
        """Find the newest imported version of a name that has the same base, files and system prompt.

        `like.files` names those that count: a manifest says when it was written.
        """
        mine = (_t.c.name == like.name, _t.c.kind == "imported", _t.c.base_id == like.base_id)
        rows = _living(like.project_id).where(*mine, _t.c.system_prompt.is_not_distinct_from(like.system_prompt))
        for row in self.connection.execute(rows.order_by(_t.c.version.desc())):
            if _contents(row.files) >= _contents([asdict(file) for file in like.files]):
                return self._with_aliases([row])[0]
        return None

    def version(self, name: str, version: int, *, project_id: str) -> Adapter | None:
        """Find `name@version`."""
        return self._one(_t.c.name == name, _t.c.version == version, project_id=project_id)

    def aliased(self, name: str, alias: str, *, project_id: str) -> Adapter | None:
        """Find what `name@alias` points at now."""
        target = select(_aliases.c.adapter_id).where(
            _aliases.c.project_id == project_id, _aliases.c.name == name, _aliases.c.alias == alias
        )
        return self._one(_t.c.id == target.scalar_subquery(), project_id=project_id)

    def of_job(self, job_id: str, *, step: int | None, project_id: str) -> Adapter | None:
        """Find a job's adapter from one step, or without `step` its final one, else its furthest checkpoint."""
        conditions = [_t.c.job_id == job_id] if step is None else [_t.c.job_id == job_id, _t.c.step == step]
        return self._one(*conditions, project_id=project_id)

    def page(self, filters: Filters, *, project_id: str, after: str | None) -> Page[Adapter]:
        """List a project's adapters; `filters.status` is a kind."""
        rows = _living(project_id)
        if filters.status is not None:
            rows = rows.where(_t.c.kind == filters.status)
        found = lists.page(self.connection, rows, _t, filters, after=after, value=_same)
        return Page(tuple(self._with_aliases(list(found.data))), has_more=found.has_more)

    def hashes(self) -> set[str]:
        """Give the hashes of all files that a living adapter of any project has."""
        rows = self.connection.execute(select(_t.c.files).where(_t.c.deleted_at.is_(None))).scalars()
        return {file["sha256"] for files in rows for file in files}

    def deleted(self, adapter_ids: Collection[str]) -> set[str]:
        """Of these ids, of whatever project, give those whose adapters are tombstones."""
        rows = select(_t.c.id).where(_t.c.id.in_(adapter_ids), _t.c.deleted_at.is_not(None))
        return set(self.connection.execute(rows).scalars())

    def named(self, name: str) -> bool:
        """Say whether any project has ever used this name."""
        return self.connection.execute(select(_versions.c.name).where(_versions.c.name == name)).first() is not None

    def hold(self, adapter_id: str, *, project_id: str) -> bool:
        """Lock a living adapter against deletion until the transaction ends; False when there is none."""
        rows = select(_t.c.id).where(_t.c.id == adapter_id, _t.c.project_id == project_id, _t.c.deleted_at.is_(None))
        return self.connection.execute(rows.with_for_update()).first() is not None

    def bury(self, adapter_id: str) -> None:
        """Turn an adapter into its tombstone."""
        self.connection.execute(update(_t).where(_t.c.id == adapter_id).values(deleted_at=wall()))

    def point(self, name: str, alias: str, *, project_id: str, adapter_id: str) -> None:
        """Make `name@alias` mean this adapter from now on."""
        where = {"project_id": project_id, "name": name, "alias": alias}
        statement = upsert(self.connection, _aliases).values(**where, adapter_id=adapter_id, moved_at=wall())
        moved = {"adapter_id": adapter_id, "moved_at": wall()}
        self.connection.execute(statement.on_conflict_do_update(index_elements=list(where), set_=moved))

    def unpoint(self, name: str, alias: str, *, project_id: str) -> bool:
        """Remove an alias; False when there was none."""
        mine = (_aliases.c.project_id == project_id, _aliases.c.name == name, _aliases.c.alias == alias)
        return self.connection.execute(delete(_aliases).where(*mine)).rowcount == 1

    def _one(self, *conditions: ColumnElement[bool], project_id: str) -> Adapter | None:
        # Of a job's, the final one, which alone has a version; of a name's, the highest version, whoever made it.
        best = (
            case((_t.c.version.is_not(None), 1), else_=0).desc(),
            _t.c.version.desc(),
            _t.c.step.desc(),
            _t.c.id.desc(),
        )
        row = self.connection.execute(_living(project_id).where(*conditions).order_by(*best).limit(1)).one_or_none()
        return None if row is None else self._with_aliases([row])[0]

    def _with_aliases(self, rows: list[Row[Any]]) -> list[Adapter]:
        wanted = [row.id for row in rows]
        pairs = select(_aliases.c.adapter_id, _aliases.c.alias).where(_aliases.c.adapter_id.in_(wanted))
        found: dict[str, list[str]] = {}
        for pair in self.connection.execute(pairs.order_by(_aliases.c.alias)):
            found.setdefault(pair.adapter_id, []).append(pair.alias)
        return [_adapter(row, aliases=tuple(found.get(row.id, ()))) for row in rows]


def _living(project_id: str) -> Select[Any]:
    return select(_t).where(_t.c.project_id == project_id, _t.c.deleted_at.is_(None))


def _contents(files: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(file["name"], file["sha256"]) for file in files}


def _same(row: Row[Any]) -> Row[Any]:
    return row


def _adapter(row: Row[Any], *, aliases: tuple[str, ...]) -> Adapter:
    return Adapter(
        id=row.id,
        project_id=row.project_id,
        created_by=row.created_by,
        kind=row.kind,
        name=row.name,
        version=row.version,
        base_id=row.base_id,
        job_id=row.job_id,
        step=row.step,
        attempt=row.attempt,
        sha256=row.manifest_sha256,
        template_hash=row.template_hash,
        system_prompt=row.system_prompt,
        r=row.r,
        files=tuple(AdapterFile(**file) for file in row.files),
        manifest=row.manifest,
        metadata=row.metadata,
        aliases=aliases,
        created_at=row.created_at,
    )
