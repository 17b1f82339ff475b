"""What serving cost, by day, project, key and adapter."""

from dataclasses import dataclass

from sqlalchemy import Connection

from core.db import tables
from core.db.dialects import upsert

_t = tables.usage


@dataclass(frozen=True, slots=True)
class Usage:
    """The table of usage."""

    connection: Connection

    def add(
        self,
        *,
        day: str,
        project_id: str,
        key_id: str,
        adapter_id: str | None,
        prompt_tokens: int,
        completion_tokens: int,
        requests: int = 1,
    ) -> None:
        """Count requests and their tokens. `day` is `YYYY-MM-DD` in UTC; no adapter means the base alone."""
        sums = {"requests": requests, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        where = {"day": day, "project_id": project_id, "key_id": key_id, "adapter_id": adapter_id or ""}
        statement = upsert(self.connection, _t).values(**where, **sums)
        added = {name: _t.c[name] + statement.excluded[name] for name in sums}
        self.connection.execute(statement.on_conflict_do_update(index_elements=list(where), set_=added))
