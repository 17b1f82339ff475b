"""Both databases come to the same schema, and processes refuse any other."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from core.db import schema
from core.db.tables import metadata
from core.db.transactions import Database, connect, transaction
from migrations import upgrading
from tests.support.databases import spelled_out
from tests.support.postgres import Postgres


def test_the_migrations_make_exactly_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            # SQLite gives defaults back with other quotes than they were written in.
            opts={"compare_type": True, "compare_server_default": not database.is_sqlite, "target_metadata": metadata},
        )
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_every_check_and_partial_index(database: Database) -> None:
    with database.engine.connect() as connection:
        found = inspect(connection)
        checks = {check["name"] for table in metadata.tables for check in found.get_check_constraints(table)}
        finals = [index for index in found.get_indexes("adapters") if index["name"] == "uq_adapters_final_job_id"]
    assert checks >= {
        "ck_keys_role", "ck_datasets_status", "ck_jobs_status", "ck_checkpoints_state", "ck_adapters_kind",
        "ck_adapters_version",
    }  # fmt: skip
    assert len(finals) == 1
    assert finals[0]["unique"]


def test_the_code_knows_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(upgrading.config()).get_current_head() == schema.REVISION


def test_a_current_schema_is_accepted(database: Database) -> None:
    schema.require_current(database)


def test_an_empty_database_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    empty = connect(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(schema.SchemaOutdated, match="python -m migrations upgrade"):
        schema.require_current(empty)
    empty.close()


def test_a_newer_schema_is_refused_without_advice_to_upgrade_it(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(schema.SchemaOutdated, match="can't be downgraded"):
        schema.require_current(database)


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    upgrading.upgrade(database_url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return spelled_out(server.create(f"empty_{os.getpid()}_{tmp_path.name.lower()[-8:].replace('-', '_')}"))


def test_two_starters_do_not_collide(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as starters:
        list(starters.map(upgrading.upgrade, [empty_url] * 4))
    opened = connect(empty_url)
    schema.require_current(opened)
    opened.close()


def test_the_command_upgrades_what_the_settings_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "migrations", "upgrade"],
        env=os.environ | {"BLUELORA_DATA_DIR": str(tmp_path / "data")},
        cwd=Path(upgrading.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [schema.REVISION]
    opened = connect(f"sqlite:///{tmp_path / 'data' / 'bluelora.db'}")
    schema.require_current(opened)
    with transaction(opened) as tx:
        assert tx.projects.named("default") is None
    opened.close()


def test_errors_never_quote_what_was_stored(database: Database) -> None:
    with pytest.raises(DBAPIError) as broken, transaction(database) as tx:
        tx.projects.connection.execute(text("INSERT INTO nothing VALUES (:said)"), {"said": "a secret"})
    assert "nothing" in str(broken.value)
    assert "a secret" not in str(broken.value)
