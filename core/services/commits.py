"""Transactions whose end nobody knows: the connection died in COMMIT."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from core.db.transactions import DatabaseUnavailable

T = TypeVar("T")
PAUSES_S: Final = (0.1, 0.3, 1.0, 2.0, 4.0)
"""Waits between tries of a transaction whose end nobody knows; together well within a lease."""


def surely(act: Callable[[], T], *, known: Callable[[], T | None]) -> T:
    """Run a transaction that must end, even if the connection dies in its COMMIT, when nobody knows which way it went.

    Args:
        act: The transaction.
        known: Reads whether an earlier `act` was committed, and what it gave; None when it was not.
    """
    for pause_s in PAUSES_S:
        try:
            return act()
        except DatabaseUnavailable:
            time.sleep(pause_s)
        with suppress(DatabaseUnavailable):
            done = known()
            if done is not None:
                return done
    return act()
