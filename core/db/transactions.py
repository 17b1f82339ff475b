"""The database, and the one way to change it: a visible block that commits when it ends.

Holds no I/O but SQL inside; a block on PostgreSQL waits 2 s for locks and 5 s for statements at most.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from core.db.clocks import LeaseClock, machine_clock, server_clock
from core.errors import Unavailable

READING: Final = "bluelora_reading"


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


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or stayed locked."""

    code = "database_unavailable"


def connect(url: str) -> Database:
    """Make the pool; nothing is connected yet.

    Args:
        url: `sqlite:///…` or `postgresql+psycopg://…`.
    """
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": 5.0, "check_same_thread": False})
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
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": 3, "options": options},
    )
    return Database(engine=engine, lease_clock=server_clock())


@dataclass(frozen=True, slots=True)
class Transaction:
    """One open transaction: the tables by noun, and the two clocks."""

    connection: Connection
    clock: LeaseClock


@contextmanager
def transaction(database: Database) -> Iterator[Transaction]:
    """Open one transaction: commit when the block ends, roll back when it raises. Holds no I/O but SQL.

    Raises:
        DatabaseUnavailable: No connection, or a lock that was not given in time.
    """
    with _typed_errors(), database.engine.begin() as connection:
        yield Transaction(connection=connection, clock=database.lease_clock)


@contextmanager
def snapshot(database: Database) -> Iterator[Transaction]:
    """Open one transaction that only reads, so that on SQLite it never waits for a writer.

    Raises:
        DatabaseUnavailable: No connection.
    """
    with _typed_errors(), database.engine.connect() as connection:
        reading = connection.execution_options(**{READING: True})
        with reading.begin():
            yield Transaction(connection=reading, clock=database.lease_clock)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or _is_transient(error):
            raise DatabaseUnavailable("The database does not answer; try again.", retry_after_s=1.0) from error
        raise
    except PoolTimeout as error:
        raise DatabaseUnavailable("Every database connection is busy; try again.", retry_after_s=1.0) from error


def _is_transient(error: DBAPIError) -> bool:
    name = type(error).__name__
    words = str(error.orig)
    return name == "OperationalError" and "no such" not in words and "syntax" not in words


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
    open_connection.execute(text("BEGIN" if reads else "BEGIN IMMEDIATE"))
