"""How long rows are, in buckets that never change, so that data sets can be compared."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from core.domain.datasets import Lengths

BOUNDS: Final = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_BOUNDS: Final = np.array(BOUNDS)


class Tally:
    """Counts rows by bucket, adds their lengths up, and keeps the longest."""

    def __init__(self) -> None:
        self._rows = np.zeros(len(BOUNDS) + 1, dtype=np.int64)
        self.longest = 0
        self.total = 0

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Take rows of these lengths in; at least one."""
        self._rows += np.bincount(np.searchsorted(_BOUNDS, lengths), minlength=len(self._rows))
        self.total += int(lengths.sum())
        self.longest = max(self.longest, int(lengths.max()))

    def lengths(self, unit: Literal["characters", "tokens"]) -> Lengths:
        """What was counted."""
        return Lengths(unit=unit, up_to=BOUNDS, rows=tuple(self._rows.tolist()))
