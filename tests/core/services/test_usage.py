"""What serving cost reaches the database: summed, once, and not lost to a database that is away."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.db.transactions import Database, DatabaseUnavailable, connect
from core.services.usage import Account, Ledger
from tests.support.databases import SqliteDatabases

ACCOUNT = Account(project_id="proj_1", key_id="key_1", adapter_id="ad_1")
BASE = Account(project_id="proj_1", key_id="key_1", adapter_id=None)


@pytest.fixture
def database(sqlite_databases: SqliteDatabases, tmp_path: Path) -> Iterator[Database]:
    opened = connect(sqlite_databases.copy(tmp_path))
    yield opened
    opened.close()


def _rows(database: Database) -> dict[str, tuple[int, int, int]]:
    with database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT adapter_id, requests, prompt_tokens, completion_tokens FROM usage"
        ).all()
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def test_answers_from_many_threads_are_summed_by_account(database: Database) -> None:
    ledger = Ledger(database)

    def answer() -> None:
        for _ in range(100):
            ledger.add(ACCOUNT, prompt_tokens=3, completion_tokens=5)
            ledger.add(BASE, prompt_tokens=1, completion_tokens=0)

    threads = [threading.Thread(target=answer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.write()
    ledger.write()
    assert _rows(database) == {"ad_1": (400, 1200, 2000), "": (400, 400, 0)}
    ledger.add(ACCOUNT, prompt_tokens=1, completion_tokens=1)
    ledger.write()
    assert _rows(database)["ad_1"] == (401, 1201, 2001)


def test_stopping_writes_what_is_left(database: Database) -> None:
    ledger = Ledger(database)
    ledger.start()
    ledger.add(ACCOUNT, prompt_tokens=3, completion_tokens=5)
    ledger.stop()
    assert _rows(database) == {"ad_1": (1, 3, 5)}


def test_what_a_database_did_not_take_is_written_later(database: Database, tmp_path: Path) -> None:
    ledger = Ledger(database)
    ledger.add(ACCOUNT, prompt_tokens=3, completion_tokens=5)
    file = tmp_path / "bluelora.db"
    file.rename(tmp_path / "away.db")
    database.engine.dispose()
    with pytest.raises(DatabaseUnavailable):
        ledger.write()
    (tmp_path / "away.db").rename(file)
    ledger.add(ACCOUNT, prompt_tokens=1, completion_tokens=1)
    ledger.write()
    assert _rows(database) == {"ad_1": (2, 4, 6)}
