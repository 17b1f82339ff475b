"""Bytes done of bytes to do, over the phases of an import."""

from collections.abc import Callable

Report = Callable[[int, int], None]
"""Called with the bytes done and the bytes to do."""


class Tally:
    """Adds up bytes and reports them, at most once for each hundredth of the whole and at the end."""

    def __init__(self, total: int, report: Report) -> None:
        self._total = total
        self._report = report
        self._done = 0
        self._next = 0.0

    def add(self, count: int) -> None:
        """Count bytes as done."""
        self._done = min(self._done + count, self._total)
        if self._done >= self._next:
            self._next = self._done + self._total / 100
            self._report(self._done, self._total)

    def finish(self) -> None:
        """Report the whole as done."""
        self._report(self._total, self._total)
