"""Which schema this code needs, and the refusal to start on any other."""

from pathlib import Path
from typing import Final

from sqlalchemy import inspect, text

from core.db.transactions import Database, reading
from core.errors import Unavailable

REVISION: Final = "0002"
"""The newest migration, which this code is written for; a test holds it equal to migrations/versions."""
VERSION_TABLE: Final = "alembic_version"
UPGRADE: Final = "python -m migrations upgrade"


class SchemaOutdated(Unavailable):
    """The database has another schema than this code needs."""

    code = "schema_outdated"


def revision(database: Database) -> str | None:
    """Read which migration the database stands at; None is an empty or absent database.

    Raises:
        DatabaseUnavailable: It does not answer.
    """
    if database.is_sqlite and not Path(database.engine.url.database or "").exists():
        return None
    with reading(database) as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()  # noqa: S608  (our constant)
        return found


def require_current(database: Database) -> None:
    """Refuse a database that an upgrade has not reached, or that a newer BlueLoRA has upgraded.

    Raises:
        SchemaOutdated: Naming the command that mends it.
    """
    found = revision(database)
    if found == REVISION:
        return
    if found is not None and found > REVISION:
        raise SchemaOutdated(
            f"The database is at migration {found}; this BlueLoRA knows up to {REVISION}. Install the newer BlueLoRA: "
            "a database can't be downgraded."
        )
    raise SchemaOutdated(
        f"The database is at migration {found or 'none'}; this BlueLoRA needs {REVISION}. Run `{UPGRADE}`."
    )
