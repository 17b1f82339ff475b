"""The process that looks at an uploaded data set: bytes on stdin, one JSON line on stdout, nothing else in reach.

It stops reading as soon as nothing more can be learnt, and LISTING_S after the first fault at the latest.
"""

import dataclasses
import gc
import json
import math
import select
import time
from collections.abc import Iterator
from typing import Final

from core.domain import inspections, reports
from core.domain.datasets import Inspection
from core.domain.faults import BadFile
from core.errors import Finding
from core.services import confinement

LISTING_S: Final = 1.5
"""How long further faults are looked for. The refusal is plain by then, and a caller shall hear of it within 2 s."""
LATE_READS: Final = 2
"""What lies in the pipe when time is up, and its end: a small file that has come is read whole on a slow machine too."""


def main() -> None:
    """Inspect stdin."""
    confinement.enter()
    # Rows make no cycles, and are held by the thousand: looking for some would take a tenth of the time.
    gc.disable()
    try:
        pieces = _Pieces()
        with confinement.noting_full_disks():
            outcome = inspections.inspect(pieces, on_fault=pieces.hurry)
    except (MemoryError, RecursionError):
        outcome = _too_complex()
    confinement.report(json.dumps(dataclasses.asdict(outcome)))


class _Pieces:
    """Stdin, piece by piece, to its end or to the end of the time that is left."""

    def __init__(self) -> None:
        self._until_s = math.inf
        self._late = 0

    def hurry(self) -> None:
        """Give what comes within LISTING_S from the first call on; a later call raises BadFile once that is over."""
        if self._until_s == math.inf:
            self._until_s = time.monotonic() + LISTING_S
        elif time.monotonic() > self._until_s:
            raise BadFile(_stopped())

    def __iter__(self) -> Iterator[bytes]:
        pieces = confinement.stdin()
        while self._is_ready() and (piece := next(pieces, None)) is not None:
            yield piece

    def _is_ready(self) -> bool:
        """Wait for bytes or the end; raises BadFile where that would take too long."""
        if self._until_s == math.inf:
            return True
        left_s = max(0.0, self._until_s - time.monotonic())
        self._late += left_s == 0
        if self._late <= LATE_READS and select.select([0], [], [], left_s)[0]:
            return True
        raise BadFile(_stopped())


def _stopped() -> Finding:
    return Finding(
        code="reading_stopped",
        message=f"Reading stopped here, {LISTING_S} s after the first fault; there may be more.",
        hint="Mend what is listed, then upload again.",
    )


def _too_complex() -> Inspection:
    return reports.refused(
        Finding(
            code="too_complex",
            message="Reading the file takes more memory than a data set may.",
            hint="Upload it in parts.",
        )
    )


if __name__ == "__main__":
    main()
