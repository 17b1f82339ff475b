"""Tells a slow trainer from one that is stuck, by the signs of progress it gives. Apart from the lease."""

import statistics
from collections import deque
from typing import Final

FACTOR: Final = 20
FIRST: Final = 2
"""Until the second sign nothing is known about the pace, so the first may take this many limits."""


class Pulse:
    """Watches for signs of progress; times are seconds on one clock of the caller's.

    Args:
        stall_s: How long no sign may come, unless the usual pace is slower than a twentieth of that.
        now: When the attempt began.
    """

    def __init__(self, stall_s: float, *, now: float) -> None:
        self._stall_s = stall_s
        self._last = now
        self._gaps: deque[float] = deque(maxlen=101)
        self._paced = False
        self._step = 0

    def step(self, now: float, step: int) -> None:
        """Note that an optimizer step ended; the same step may be said twice."""
        if step <= self._step:
            return
        if self._paced:
            self._gaps.append(now - self._last)
        self._last, self._paced, self._step = now, True, step

    def turn(self, now: float) -> None:
        """Note that other work began: the time until the next step says nothing about the pace."""
        self._last, self._paced = now, False

    def limit_s(self) -> float:
        """How long may pass without a sign."""
        if not self._paced:
            return FIRST * self._stall_s
        return max(self._stall_s, FACTOR * statistics.median(self._gaps)) if self._gaps else self._stall_s

    def overdue(self, now: float) -> bool:
        """Say whether the trainer counts as stuck."""
        return now - self._last > self.limit_s()
