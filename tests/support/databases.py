"""Migrated databases for tests: made once of each kind, then copied."""

import itertools
import shutil
from pathlib import Path
from typing import Final

from core.settings import Settings
from migrations import upgrading
from tests.support.postgres import Postgres

TEMPLATE: Final = "bluelora_template"
_numbers = itertools.count()


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
    """Copies of one migrated database."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        upgrading.upgrade(spelled_out(server.create(TEMPLATE)))

    def copy(self) -> str:
        """Make a fresh database, by the name that its URL ends in."""
        return spelled_out(self._server.create(f"test_{next(_numbers)}", template=TEMPLATE))

    def drop(self, url: str) -> None:
        """Remove a database again."""
        self._server.drop(url.partition("@/")[2].partition("?")[0])


def spelled_out(url: str) -> str:
    """The URL with its driver, as settings spell it."""
    return Settings.model_validate({"database_url": url}).sql_url()
