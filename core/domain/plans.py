"""Plans as values: what a training would do, told before it does anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from core.domain.datasets import Dataset
from core.domain.memory import Memory, Precision
from core.domain.steps import Steps
from core.domain.training import TrainSpec
from core.errors import Finding

SHOWN_LINES: Final = 100
"""So many lines of dropped or truncated rows are named."""
SHOWN_ROWS: Final = 3
"""So many rows are previewed."""
SHOWN_PIECES: Final = 512
"""So many token pieces of a preview are shown."""


Why = Literal["first", "truncated", "longest", "middle", "last"]
"""What a previewed row was chosen for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens that are read, and those of them that are learnt (answers and their end tokens)."""

    total: int
    trained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Training or validation rows: how many remain, what they hold, and what became of the long ones."""

    rows: int
    tokens: Tokens
    longest: int
    dropped: int
    truncated: int
    dropped_lines: tuple[int, ...]
    truncated_lines: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One token. `text` is None where its bytes are no whole characters; `bytes` (hexadecimal) is there then."""

    id: int
    text: str | None
    bytes: str | None
    trained: bool
    control: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One row as it is trained on; `omitted` counts pieces that are not shown."""

    line: int
    why: Why
    tokens: Tokens
    pieces: tuple[Piece, ...]
    omitted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What data, base and spec say of a training by themselves, whatever the deployment.

    `trained_tokens` is what the job's log will count at its end: all tokens of all steps. `estimated` says that the
    file is large and `read_rows` of its rows stand for all; `low` and `high` bound `trained_tokens` then and equal it
    otherwise. `padding_avoided` are the tokens that padding micro-batches to their longest row would add.
    `packed_rows` is None in exact mode.
    """

    estimated: bool
    read_rows: int
    steps: Steps
    evaluations: int
    checkpoints: int
    train: Side
    validation: Side | None
    packed_rows: int | None
    trained_tokens: int
    trained_labels: int
    low: int
    high: int
    padding_avoided: int
    peaks: Mapping[Precision, Memory]
    previews: tuple[Preview, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Seconds that a training took here by what was measured; both None where nothing was, and `reason` says why."""

    low: float | None
    high: float | None
    measured_attempts: int
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An outline, and what this deployment makes of it. Of `workers` that live, `fitting_workers` have memory enough."""

    spec: TrainSpec
    dataset: Dataset
    outline: Outline
    memory: Memory
    workers: int
    fitting_workers: int
    time: Time
    warnings: tuple[Finding, ...]
