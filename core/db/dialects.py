"""The few statements that SQLite and PostgreSQL spell alike but SQLAlchemy builds per dialect."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Table, exists, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite


def is_sqlite(connection: Connection) -> bool:
    """Say whether this is a connection to a file."""
    return connection.dialect.name == "sqlite"


def upsert(connection: Connection, table: Table) -> "sqlite.Insert | postgresql.Insert":
    """Begin an INSERT that can say `on_conflict_do_…`."""
    return sqlite.insert(table) if is_sqlite(connection) else postgresql.insert(table)


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless one is there that conflicts; say whether it was inserted.

    On PostgreSQL this waits for another transaction that holds the same key.
    """
    statement = upsert(connection, table).values(**values).on_conflict_do_nothing()
    # For an INSERT SQLAlchemy closes the cursor before anyone can ask for its count, unless told to keep it.
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1


def lock(connection: Connection, sha256: str) -> None:
    """Let one transaction at a time go on that names this hash; on SQLite one writes at a time anyway."""
    if not is_sqlite(connection):
        key = int.from_bytes(bytes.fromhex(sha256)[:8], signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(literal(key, BigInteger))))


def has_pairs(
    connection: Connection, column: ColumnElement[Any], pairs: Mapping[str, str]
) -> list[ColumnElement[bool]]:
    """Say in SQL that a JSON object has each of these pairs of strings, whatever characters its keys hold."""
    entries = func.json_each if is_sqlite(connection) else func.json_each_text
    conditions: list[ColumnElement[bool]] = []
    for key, value in pairs.items():
        entry = entries(column).table_valued("key", "value", joins_implicitly=True)
        conditions.append(exists().where(entry.c.key == literal(key), entry.c.value == literal(value)))
    return conditions
