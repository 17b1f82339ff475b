"""What is odd about a training although it could begin: told by a plan, refused by nobody."""

from collections.abc import Iterator
from typing import Final

from core.domain.plans import Outline, Side
from core.domain.training import TrainSpec
from core.errors import Finding

USUAL_RATES: Final = (1e-6, 2e-3)
FEW_STEPS: Final = 10
MANY_EPOCHS: Final = 20
LARGE_R: Final = 32
ROWS_FOR_LARGE_R: Final = 1000
NOTABLE_SHARE: Final = 0.1
EVALUATION_SHARE: Final = 0.5
FORWARD_SHARE: Final = 0.5
"""An evaluated token costs half of a trained one: no backward pass through the frozen base."""


def advice(spec: TrainSpec, outline: Outline) -> tuple[Finding, ...]:
    """List what the numbers say by themselves."""
    return (*_size(outline), *_fields(spec, outline), *_cost(outline), *_rows(outline.train, "trained on"))


def _size(outline: Outline) -> Iterator[Finding]:
    items = outline.packed_rows or outline.train.rows
    if outline.estimated:
        yield Finding(
            code="estimated",
            message=f"The file is large: {outline.read_rows} of its first rows stand for all of them.",
            field="dataset",
            hint="Rows further on may be longer, or be faulty for this base; the trainer reads them all.",
        )
    if items < outline.steps.samples:
        yield Finding(
            code="fewer_rows_than_a_step",
            message=f"{items} rows are fewer than the {outline.steps.samples} of one step.",
            field="per_device_train_batch_size",
            hint="Lower per_device_train_batch_size or gradient_accumulation_steps, or upload more rows.",
        )
    if outline.steps.total < FEW_STEPS:
        yield Finding(
            code="few_steps",
            message=f"The training takes {outline.steps.total} steps, too few to learn much.",
            field="num_train_epochs",
            hint="Raise num_train_epochs, or lower the batch.",
        )


def _fields(spec: TrainSpec, outline: Outline) -> Iterator[Finding]:
    low, high = USUAL_RATES
    if not low <= spec.learning_rate <= high:
        yield Finding(
            code="unusual_learning_rate",
            message=f"learning_rate {spec.learning_rate:g} is {'below' if spec.learning_rate < low else 'above'} what "
            "LoRA usually takes.",
            field="learning_rate",
            hint="1e-5 to 5e-4 are usual; a very small base takes more.",
        )
    if spec.r > LARGE_R and outline.train.rows < ROWS_FOR_LARGE_R:
        yield Finding(
            code="large_r",
            message=f"r {spec.r} is much for {outline.train.rows} rows.",
            field="r",
            hint="8 to 16 learn as much from few rows, and overfit less.",
        )
    if outline.steps.total > MANY_EPOCHS * outline.steps.per_epoch and not spec.early_stopping_patience:
        epochs = outline.steps.total / outline.steps.per_epoch
        yield Finding(
            code="many_epochs",
            message=f"Each row is seen {epochs:.0f} times; the adapter will know them by heart.",
            field="num_train_epochs",
            hint="Train for fewer epochs, or send validation_ratio and early_stopping_patience.",
        )


def _cost(outline: Outline) -> Iterator[Finding]:
    if outline.validation is None:
        return
    evaluated = outline.evaluations * outline.validation.tokens.total * FORWARD_SHARE
    if evaluated > EVALUATION_SHARE * outline.trained_tokens:
        yield Finding(
            code="costly_evaluation",
            message=f"{outline.evaluations} evaluations of {outline.validation.rows} rows take about "
            f"{evaluated / outline.trained_tokens:.0%} of the time that training takes.",
            field="eval_steps",
            hint="Raise eval_steps, or lower validation_ratio.",
        )
    yield from _rows(outline.validation, "validated on")


def _rows(side: Side, what: str) -> Iterator[Finding]:
    if side.truncated > NOTABLE_SHARE * side.rows:
        yield Finding(
            code="many_truncated",
            message=f"{side.truncated} of the {side.rows} rows {what} lose the end of their answer.",
            field="max_length",
            hint="Raise max_length up to the base's context, or shorten the rows.",
        )
    if side.dropped > NOTABLE_SHARE * (side.rows + side.dropped):
        yield Finding(
            code="many_dropped",
            message=f"{side.dropped} of {side.rows + side.dropped} rows are too long and are not {what}.",
            field="max_length",
            hint="Raise max_length up to the base's context, or send overlong 'truncate'.",
        )
