"""The process that looks at an uploaded data set: bytes on stdin, one JSON line on stdout, nothing else in reach.

It stops reading as soon as nothing more can be learnt, and LISTING_S after the first fault at the latest.
"""

import dataclasses
import gc
import json
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


def main() -> None:
    """Inspect stdin."""
    confinement.enter()
    # Rows make no cycles, and are held by the thousand: looking for some would take a tenth of the time.
    gc.disable()
    try:
        pieces = _Pieces()
        outcome = inspections.inspect(pieces, on_fault=pieces.hurry)
    except (MemoryError, RecursionError):
        outcome = _too_complex()
    confinement.report(json.dumps(dataclasses.asdict(outcome)))


class _Pieces:
    """Stdin, piece by piece, to its end or to the end of the time that is left."""

    def __init__(self) -> None:
        self._until_s: float | None = None

    def hurry(self) -> None:
        """Give what comes within LISTING_S from now."""
        self._until_s = time.monotonic() + LISTING_S

    def __iter__(self) -> Iterator[bytes]:
        pieces = confinement.stdin()
        while True:
            self._check_time()
            if (piece := next(pieces, None)) is None:
                return
            yield piece

    def _check_time(self) -> None:
        if self._until_s is None:
            return
        left_s = self._until_s - time.monotonic()
        if left_s > 0 and select.select([0], [], [], left_s)[0]:
            return
        raise BadFile(
            Finding(
                code="reading_stopped",
                message=f"Reading stopped here, {LISTING_S} s after the first fault; there may be more.",
                hint="Mend what is listed, then upload again.",
            )
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
