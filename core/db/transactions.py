"""The database, and the one way to change it: a visible block that commits when it ends.

Holds no I/O but SQL inside; a block on PostgreSQL waits 2 s for locks and 5 s for statements at most.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from core.db.adapters import Adapters
from core.db.attempts import Attempts
from core.db.audit import Audit
from core.db.bases import Bases
from core.db.checkpoints import Checkpoints
from core.db.clocks import LeaseClock, machine_clock, server_clock
from core.db.datasets import Datasets
from core.db.events import Events
from core.db.idempotency import Idempotency
from core.db.jobs import Jobs
from core.db.keys import Keys
from core.db.outbox import Outbox
from core.db.projects import Projects
from core.db.usage import Usage
from core.db.workers import Workers
from core.errors import Problem, StorageFull, Unavailable

READING: Final = "bluelora_reading"
DISK_FULL: Final = "53100"
"""PostgreSQL's error code for a full disk."""


@dataclass(frozen=True, slots=True)
class Database:
    """One process's pool of connections, and the clock its leases are measured by."""

    engine: Engine
    lease_clock: LeaseClock

    @property
    def is_sqlite(self) -> bool:
        """Whether the file-based database is in use."""
        return self.engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Give back every pooled connection."""
        self.engine.dispose()


class DatabaseFull(StorageFull):
    """The disk under the database has no room left."""

    code = "storage_full"


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or stayed locked."""

    code = "database_unavailable"


def connect(url: str, *, create: bool = False) -> Database:
    """Make the pool; nothing is connected yet. Its errors never quote what was stored, so that no log does.

    Args:
        url: `sqlite:///…` or `postgresql+psycopg://…`.
        create: Whether a missing SQLite file may be made. Only an upgrade makes one: a service whose file has gone
            must say so, not go on with an empty one.
    """
    if url.startswith("sqlite"):
        path = make_url(url).database or ""
        engine = create_engine(
            url,
            creator=partial(_open_sqlite, path, create=create),
            pool_size=10,
            max_overflow=20,
            pool_timeout=5,
            hide_parameters=True,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return Database(engine=engine, lease_clock=machine_clock())
    options = "-c lock_timeout=2000 -c statement_timeout=5000 -c idle_in_transaction_session_timeout=30000"
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        pool_timeout=5,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": 3, "options": options},
    )
    return Database(engine=engine, lease_clock=server_clock())


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction: the tables, by noun."""

    projects: Projects
    keys: Keys
    audit: Audit
    datasets: Datasets
    bases: Bases
    jobs: Jobs
    events: Events
    attempts: Attempts
    checkpoints: Checkpoints
    adapters: Adapters
    idempotency: Idempotency
    outbox: Outbox
    workers: Workers
    usage: Usage

    @classmethod
    def on(cls, connection: Connection, clock: LeaseClock) -> Self:
        """Put the tables on an open connection."""
        return cls(
            projects=Projects(connection),
            keys=Keys(connection),
            audit=Audit(connection),
            datasets=Datasets(connection, clock),
            bases=Bases(connection),
            jobs=Jobs(connection, clock),
            events=Events(connection),
            attempts=Attempts(connection, clock),
            checkpoints=Checkpoints(connection),
            adapters=Adapters(connection),
            idempotency=Idempotency(connection),
            outbox=Outbox(connection),
            workers=Workers(connection, clock),
            usage=Usage(connection),
        )


@contextmanager
def transaction(database: Database) -> Iterator[Transaction]:
    """Open one transaction: commit when the block ends, roll back when it raises. Holds no I/O but SQL.

    Raises:
        DatabaseUnavailable: No connection, or a lock that was not given in time.
    """
    with _typed_errors(), database.engine.begin() as connection:
        yield Transaction.on(connection, database.lease_clock)


@contextmanager
def snapshot(database: Database) -> Iterator[Transaction]:
    """Open one transaction that only reads, so that on SQLite it never waits for a writer.

    Raises:
        DatabaseUnavailable: No connection.
    """
    with reading(database) as connection:
        yield Transaction.on(connection, database.lease_clock)


@contextmanager
def reading(database: Database) -> Iterator[Connection]:
    """Open a bare connection in a transaction that only reads.

    Raises:
        DatabaseUnavailable: No connection.
    """
    with _typed_errors(), database.engine.connect() as connection:
        connection.execution_options(**{READING: True})
        with connection.begin():
            yield connection


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        typed = _problem(error)
        if typed is None:
            raise
        raise typed from error
    except PoolTimeout as error:
        raise DatabaseUnavailable("Every database connection is busy; try again.", retry_after_s=1.0) from error


def _problem(error: DBAPIError) -> Problem | None:
    words = str(error.orig)
    if "disk is full" in words or getattr(error.orig, "sqlstate", None) == DISK_FULL:
        return DatabaseFull("The disk under the database is full; nothing was stored.")
    mistake = "no such" in words or "syntax" in words
    if error.connection_invalidated or (isinstance(error, OperationalError) and not mistake):
        return DatabaseUnavailable("The database does not answer; try again.", retry_after_s=1.0)
    return None


def _open_sqlite(path: str, *, create: bool) -> sqlite3.Connection:
    mode = "rwc" if create else "rw"
    return sqlite3.connect(f"file:{quote(path)}?mode={mode}", uri=True, timeout=5.0, check_same_thread=False)


def _prepare_sqlite(raw: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401  (the driver's connection)
    raw.isolation_level = None
    cursor = raw.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(open_connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another wrote meanwhile, whatever the
    # busy timeout says (SQLite 3.40, code 517); IMMEDIATE waits its turn. One that only reads need not wait.
    reads = open_connection.get_execution_options().get(READING, False)
    open_connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
