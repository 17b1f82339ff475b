"""Threads that do something again and again beside the requests.

Know no requests and no rows: any number of API processes may run one.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from core.errors import Problem

log: Final = logging.getLogger("api.rounds")
STOP_S: Final = 5.0


class Rounds:
    """Calls `work` every `pause_s` seconds.

    `start` it once. `stop` waits a little; work cut off must be such that the next round, of anybody, does it.
    """

    def __init__(self, work: Callable[[], object], *, name: str, pause_s: float) -> None:
        self._work = work
        self._name = name
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.wait(self._pause_s):
            try:
                self._work()
            except Problem as problem:
                log.warning("%s can't do its work now: %s", self._name, problem.code)
            except Exception:  # the thread's outermost loop: without it the work would never be done again
                log.exception("%s can't do its work now", self._name)
