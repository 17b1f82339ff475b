"""Migrated databases for tests: made once of each kind, then copied."""

import itertools
import shutil
from pathlib import Path
from typing import Final

import psycopg

from core.db import schema
from core.db.tables import metadata
from core.settings import Settings
from migrations import upgrading
from tests.support.postgres import Postgres

TEMPLATE: Final = "bluelora_template"
OTHERS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class SqliteDatabases:
    """Copies of one migrated file."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template.db"
        upgrading.upgrade(f"sqlite:///{self._template}")

    def copy(self, folder: Path) -> str:
        """Lay a fresh database into a folder and give its URL."""
        path = folder / "bluelora.db"
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"


class PostgresDatabases:
    """Copies of one migrated database; one that is given back is emptied and lent again, as copying takes long."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._free: list[str] = []
        self._numbers = itertools.count()
        upgrading.upgrade(spelled_out(server.create(TEMPLATE)))

    def lend(self) -> str:
        """Give the URL of an empty database."""
        if self._free:
            return self._free.pop()
        return spelled_out(self._server.create(f"test_{next(self._numbers)}", template=TEMPLATE))

    def take_back(self, url: str) -> None:
        """Empty a database that nobody uses any more."""
        tables = [f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)]
        version = f"UPDATE alembic_version SET version_num = '{schema.REVISION}'"
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(OTHERS.encode())
            connection.execute("; ".join([*tables, version]).encode())
        self._free.append(url)


def spelled_out(url: str) -> str:
    """The URL with its driver, as settings spell it."""
    return Settings.model_validate({"database_url": url}).sql_url()
