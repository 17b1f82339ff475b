"""What transactions left to be sent; core/wake.py sends it, and calls these."""

from collections.abc import Iterable, Sequence
from typing import Final

from core.db.outbox import Unsent
from core.db.transactions import Database, snapshot, transaction

AT_ONCE: Final = 100


def unsent(database: Database) -> Sequence[Unsent]:
    """Read the oldest messages that nobody has marked as sent."""
    with snapshot(database) as tx:
        return tx.outbox.unsent(AT_ONCE)


def mark(ids: Iterable[int], *, database: Database) -> None:
    """Mark messages as sent. Between sending and this a crash doubles them, which is harmless."""
    with transaction(database) as tx:
        tx.outbox.mark(ids)
