"""Workers: what each says it has, and which bases that is enough for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BF16: Final = "bf16"
"""The capability of training in bfloat16: two bytes a parameter where others need four."""
USABLE_SHARE: Final = 0.9
"""The share of a device's memory that a frozen base may fill; activations and adapters need the rest."""
ALIVE_S: Final = 60
"""A worker that has not been seen for this long counts as gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One worker process. `memory_bytes` is its device's; `bases` are the fingerprints it has cached.

    A worker fetches bases it lacks, so only memory decides what it can run.
    """

    id: str
    host: str
    device: str
    memory_bytes: int
    bases: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    draining: bool = False
    started_at: int = 0
    last_seen: int = 0

    @property
    def max_parameters(self) -> int:
        """The largest base, in parameters, that fits this worker's device."""
        bytes_each = 2 if BF16 in self.capabilities else 4
        return int(self.memory_bytes * USABLE_SHARE) // bytes_each


def capacity(workers: Iterable[WorkerInfo]) -> int:
    """Count the parameters of the largest base that any of these workers can hold; 0 when none takes jobs."""
    return max((worker.max_parameters for worker in workers if not worker.draining), default=0)
