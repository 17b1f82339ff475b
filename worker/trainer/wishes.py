"""What the worker wishes of the running attempt, set by one thread and read by another."""

import threading
from typing import Literal

from typing_extensions import override

Wish = Literal["cancel", "pause", "finish"]


class StopAsked(Exception):
    """The attempt shall end before its training began."""

    def __init__(self, wish: Literal["cancel", "pause"]) -> None:
        super().__init__(wish)
        self.wish = wish

    @override
    def __str__(self) -> str:
        return f"stop asked: {self.wish}"


class Wishes:
    """The newest wish; a cancel is never taken back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wish: Wish | None = None

    @property
    def wish(self) -> Wish | None:
        """The wish that stands, or None to go on."""
        with self._lock:
            return self._wish

    def ask(self, wish: Wish) -> None:
        """Replace the wish that stands, unless it is a cancel."""
        with self._lock:
            if self._wish != "cancel":
                self._wish = wish

    def check(self) -> None:
        """Leave the work that comes before training.

        Raises:
            StopAsked: Cancel or pause was asked. A finish waits for the first step, since there is nothing to publish.
        """
        wish = self.wish
        if wish == "cancel" or wish == "pause":  # noqa: PLR1714  (mypy narrows `==`, not `in`)
            raise StopAsked(wish)
