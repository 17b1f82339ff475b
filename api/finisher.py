"""The threads that finish what uploads did not wait for: inspections, and token counts.

Knows no requests and no rows: any number of API processes may run one, a lease makes each data set one's own.
"""

import logging
import threading
from collections.abc import Callable
from typing import Final

from core.errors import Problem

log: Final = logging.getLogger("api.finisher")
PAUSE_S: Final = 2.0
STOP_S: Final = 5.0


class Finisher:
    """Calls `finish` every two seconds, in a thread called `name`.

    `start` it once. `stop` waits a little; a check cut off is begun again by whoever finds its lease run out.
    """

    def __init__(self, name: str, *, finish: Callable[[], object]) -> None:
        self._finish = finish
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
        while not self._stopping.wait(PAUSE_S):
            try:
                self._finish()
            except Problem as problem:
                log.warning("data sets can't be finished now: %s", problem.code)
            except Exception:  # the thread's outermost loop: without it every late data set would stay `processing`
                log.exception("data sets can't be finished now")
