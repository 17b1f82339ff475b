"""Projects: who owns rows."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from core.db import tables
from core.db.clocks import wall
from core.db.dialects import insert_new
from core.domain import ids
from core.domain.keys import Project

_t = tables.projects


@dataclass(frozen=True, slots=True)
class Projects:
    """The table of projects."""

    connection: Connection

    def named(self, name: str) -> Project | None:
        """Find a project by its name."""
        row = self.connection.execute(select(_t.c.id, _t.c.name).where(_t.c.name == name)).one_or_none()
        return None if row is None else Project(id=row.id, name=row.name)

    def ensure(self, name: str) -> Project:
        """Find a project by its name, or make it; of two that make it at once, one does."""
        found = self.named(name)
        if found is None:
            insert_new(self.connection, _t, {"id": ids.new("proj"), "name": name, "created_at": wall()})
            row = self.connection.execute(select(_t.c.id, _t.c.name).where(_t.c.name == name)).one()
            found = Project(id=row.id, name=row.name)
        return found

    def lock_names(self, project_id: str) -> None:
        """Let one transaction at a time give out names and versions in a project."""
        # NO KEY UPDATE: a plain FOR UPDATE would also stop every insert that refers to the project.
        self.connection.execute(select(_t.c.id).where(_t.c.id == project_id).with_for_update(key_share=True))
