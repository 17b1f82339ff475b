"""`python -m worker.health`, on both databases."""

import socket
from dataclasses import replace

import pytest

from core.db import tables
from core.db.transactions import Database
from core.domain.workers import ALIVE_S
from core.services import workers
from tests.support.worlds import a_worker
from worker import health


@pytest.fixture(autouse=True)
def _settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELORA_DATABASE_URL", database_url)


def last_seen(database: Database, *, seconds_ago: int) -> None:
    with database.engine.begin() as connection:
        connection.execute(tables.workers.update().values(last_seen=tables.workers.c.last_seen - seconds_ago))


def test_a_host_whose_worker_was_seen_is_well(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    workers.register(replace(a_worker(), host=socket.gethostname()), database=database)
    last_seen(database, seconds_ago=ALIVE_S - 20)
    assert health.main() == 0
    assert capsys.readouterr().err == ""


def test_a_worker_that_has_fallen_silent_is_not_well(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    workers.register(replace(a_worker(), host=socket.gethostname()), database=database)
    last_seen(database, seconds_ago=ALIVE_S + 1)
    assert health.main() == 1
    assert capsys.readouterr().err == f"No worker of host {socket.gethostname()} was seen in the last {ALIVE_S} s.\n"


def test_another_hosts_worker_vouches_for_none_here(database: Database) -> None:
    workers.register(replace(a_worker(), host="elsewhere"), database=database)
    assert health.main() == 1


def test_a_database_that_is_away_or_old_is_named_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLUELORA_DATABASE_URL", "postgresql://nobody:secret-word@/none?host=/nowhere")
    assert health.main() == 1
    monkeypatch.setenv("BLUELORA_DATABASE_URL", "sqlite:////nowhere/bluelora.db")
    assert health.main() == 1
    away, old = capsys.readouterr().err.splitlines()
    assert away == "The database does not answer; try again."
    assert "python -m migrations upgrade" in old


def test_bad_settings_are_named_without_their_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BLUELORA_PORT", "secret-word")
    assert health.main() == 1
    assert capsys.readouterr().err == "The settings can't be used: port.\n"
