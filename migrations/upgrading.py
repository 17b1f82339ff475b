"""Applies migrations, one starter at a time: others wait, then find that nothing is left to do."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from core.db.transactions import connect

LOCK: Final = 0x626C6F7261
"""The advisory lock of BlueLoRA's migrations on PostgreSQL."""
WAIT_MS: Final = 300_000


def config(connection: Connection | None = None) -> Config:
    """Alembic's settings; no file, as the connection is handed over."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(url: str) -> None:
    """Bring the database at `url` to the newest migration, all of it or nothing.

    Args:
        url: SQLAlchemy URL, with the driver spelled out.
    """
    database = connect(url, create=True)
    try:
        with database.engine.connect() as connection:
            if database.is_sqlite:
                # Before BEGIN IMMEDIATE, which then is the lock.
                connection.connection.driver_connection.execute(f"PRAGMA busy_timeout={WAIT_MS}")  # type: ignore[union-attr]
            with connection.begin():
                if not database.is_sqlite:
                    _wait_in_line(connection)
                command.upgrade(config(connection), "head")
    finally:
        database.close()


def _wait_in_line(connection: Connection) -> None:
    for limit in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
        connection.execute(text(f"SET LOCAL {limit} = {WAIT_MS}"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
