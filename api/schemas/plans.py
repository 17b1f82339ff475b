"""Plans on the wire."""

from typing import Literal, Self

from pydantic import BaseModel

from api.schemas.lists import Out
from core.domain.plans import Outline, Plan, Side, Why
from core.domain.training import TrainSpec


class TokensOut(Out):
    """Tokens that are read, and those of them that are learnt."""

    total: int
    trained: int


class TrainedTokensOut(BaseModel):
    """Tokens by reach: in one epoch, over all steps, and on validation rows in one evaluation.

    `all_steps.total` is the `trained_tokens` of the job's log. `low` and `high` bound it where the plan is estimated
    and equal it otherwise. `padding_avoided` is what padding each micro-batch to its longest row would add.
    """

    per_epoch: TokensOut
    all_steps: TokensOut
    low: int
    high: int
    validation: TokensOut | None
    padding_avoided: int


class StepsOut(BaseModel):
    """Optimizer steps; `rows` is what one of them takes, packed rows in packed mode."""

    total: int
    per_epoch: int
    rows: int
    warmup: int
    evaluations: int
    checkpoints: int


class SideOut(Out):
    """Rows of one side that remain, the longest in tokens, and what became of those over `max_length`."""

    rows: int
    longest: int
    dropped: int
    truncated: int
    dropped_lines: list[int]
    truncated_lines: list[int]


class RowsOut(BaseModel):
    """Both sides; `packed` counts the rows that samples were packed into."""

    train: SideOut
    validation: SideOut | None
    packed: int | None


class MemoryOut(Out):
    """Bytes at the training's highest point (docs/plan.md has the formula); `bf16` is a GPU, `fp32` a CPU."""

    precision: Literal["bf16", "fp32"]
    weights_bytes: int
    adapter_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    reserve_bytes: int
    context_bytes: int
    total_bytes: int


class WorkersOut(BaseModel):
    """Workers that live, and those of them with memory enough."""

    alive: int
    fitting: int


class TimeOut(BaseModel):
    """Seconds by the measured speed of this deployment; null with a reason where nothing was measured."""

    low_seconds: float | None
    high_seconds: float | None
    measured_attempts: int
    reason: str | None


class AdviceOut(Out):
    """Something odd that refuses nothing: what, about which field, and what would be usual."""

    code: str
    message: str
    field: str | None
    hint: str | None


class PieceOut(Out):
    """One token: `text`, or `bytes` in hexadecimal where they are no whole characters."""

    id: int
    text: str | None
    bytes: str | None
    trained: bool
    control: bool


class PreviewOut(Out):
    """One row as it is trained on, token by token; `omitted` counts the tokens that are not shown."""

    line: int
    why: Why
    tokens: TokensOut
    pieces: list[PieceOut]
    omitted: int


class PlanOut(BaseModel):
    """What a job would do. `estimated` says that the first `read_rows` rows stand for all of a large file."""

    object: Literal["job.plan"] = "job.plan"
    dataset: str
    resolved_spec: TrainSpec
    estimated: bool
    read_rows: int
    steps: StepsOut
    rows: RowsOut
    tokens: TrainedTokensOut
    memory: MemoryOut
    workers: WorkersOut
    time: TimeOut
    warnings: list[AdviceOut]
    previews: list[PreviewOut]

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Show a plan."""
        outline = plan.outline
        return cls(
            dataset=plan.dataset.id,
            resolved_spec=plan.spec,
            estimated=outline.estimated,
            read_rows=outline.read_rows,
            steps=_steps(outline),
            rows=RowsOut(
                train=SideOut.of(outline.train),
                validation=_maybe(outline.validation),
                packed=outline.packed_rows,
            ),
            tokens=_tokens(outline),
            memory=MemoryOut.of(plan.memory),
            workers=WorkersOut(alive=plan.workers, fitting=plan.fitting_workers),
            time=TimeOut(
                low_seconds=plan.time.low,
                high_seconds=plan.time.high,
                measured_attempts=plan.time.measured_attempts,
                reason=plan.time.reason,
            ),
            warnings=[AdviceOut.of(one) for one in plan.warnings],
            previews=[PreviewOut.of(one) for one in outline.previews],
        )


def _maybe(side: Side | None) -> SideOut | None:
    return None if side is None else SideOut.of(side)


def _steps(outline: Outline) -> StepsOut:
    return StepsOut(
        total=outline.steps.total,
        per_epoch=outline.steps.per_epoch,
        rows=outline.steps.samples,
        warmup=outline.steps.warmup,
        evaluations=outline.evaluations,
        checkpoints=outline.checkpoints,
    )


def _tokens(outline: Outline) -> TrainedTokensOut:
    return TrainedTokensOut(
        per_epoch=TokensOut.of(outline.train.tokens),
        all_steps=TokensOut(total=outline.trained_tokens, trained=outline.trained_labels),
        low=outline.low,
        high=outline.high,
        validation=None if outline.validation is None else TokensOut.of(outline.validation.tokens),
        padding_avoided=outline.padding_avoided,
    )
