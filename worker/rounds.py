"""Something done again and again beside the main thread, whatever goes wrong with it."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Rounds:
    """A thread that acts every so often until it is stopped or the process ends.

    Args:
        name: Of the thread, and in the log.
        act: What is done; an error is logged, and the next round comes all the same.
        every_s: Seconds between rounds; the first comes after as long.
    """

    def __init__(self, name: str, act: Callable[[], object], *, every_s: float) -> None:
        self._name = name
        self._act = act
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, *, patience_s: float = 5.0) -> None:
        """End; a round that runs is waited for, but not for ever."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._act()
            except Exception:  # the thread's outermost loop
                log.exception("a round of %s failed", self._name)
