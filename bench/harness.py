"""How rows are timed and what they say: steps between callbacks, blocks interleaved, one JSON line."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

PACKAGES: Final = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line; `steps` None leaves it to the shape."""

    row: str
    shape: Literal["7b", "nano", "tiny"] = "7b"
    device: Literal["cpu", "cuda"] = "cuda"
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who we are compared with; its figure has the row's unit."""

    name: str
    figure: float


def versions(*packages: str) -> dict[str, str]:
    """Name what was measured with: these packages, or those that train."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages or PACKAGES}}


def processor() -> str:
    """Name the processor and how many cores of it we may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"cpu, {model}, {len(os.sched_getaffinity(0))} cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row's line. `limit` has the row's unit and is None where none is known; `of_limit` is figure by limit.

    `ratio` is ours by the peer's, above 1 where we are better (below 1 where the unit
    is of what should be small, as in U1). `spread` is the interquartile range by the median.
    `n` counts the timed repetitions of ours. `parity` says how far our numbers are from the peer's.
    """

    row: str
    figure: float
    unit: str
    peer: Peer
    ratio: float
    limit: float | None = None
    of_limit: float | None = None
    tokens_per_step: float | None = None
    warmup_s: float
    n: int
    spread: float
    parity: Mapping[str, float] | None = None
    device: str
    shape: str
    versions: Mapping[str, str] = field(default_factory=versions)
    more: Mapping[str, float | str | None] = field(default_factory=dict)


def line(result: Result) -> str:
    """Write a result as one line of JSON."""
    return json.dumps(asdict(result), ensure_ascii=False, allow_nan=False)


def spread(values: Sequence[float]) -> float:
    """Return the interquartile range by the median; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


@dataclass(slots=True)
class Block:
    """One uninterrupted stretch of steps of one side; the first step is its warm-up."""

    seconds: list[float] = field(default_factory=list)
    warmup_s: float = 0.0


class StepClock:
    """Times optimizer steps from the end of one to the end of the next, so that loading a batch counts too."""

    def __init__(self, synchronize: Callable[[], object] | None = None) -> None:
        self._synchronize = synchronize
        self._last = 0.0
        self.block = Block()

    def start(self) -> None:
        """Begin the warm-up step."""
        self._last = self._now()

    def stop(self) -> None:
        """End one step."""
        now = self._now()
        took, self._last = now - self._last, now
        if self.block.warmup_s:
            self.block.seconds.append(took)
        else:
            self.block.warmup_s = took

    def _now(self) -> float:
        if self._synchronize:
            self._synchronize()
        return time.perf_counter()
