"""From conversations to the rows that a training draws: split, rendered, fitted, packed.

The trainer and the plan both come through here, so what a plan counts is what is trained on. Knows no tensors and no
files. What comes out depends on the conversations, the base's chat format and the spec alone.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from core.domain import splits
from core.domain.datasets import Conversation
from core.domain.training import TrainSpec
from core.errors import Invalid
from core.text import examples, packing
from core.text.chat import Renderer
from core.text.examples import Example, Fitted
from core.text.packing import Packed


class NoRowsLeft(Invalid):
    """Nothing is left to train on."""

    code = "no_rows_left"


class NoValidationRows(Invalid):
    """Nothing is left to validate on."""

    code = "no_validation_rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Both sides of a training. `validation` is None where nothing is validated on.

    `groups` are what the sampler draws, each the places of its samples in `train.examples`: one sample, or those of a
    packed row.
    """

    train: Fitted
    validation: Fitted | None
    groups: tuple[tuple[int, ...], ...]

    def rows(self) -> Iterator[Packed]:
        """Lay the samples of each group end to end."""
        for group in self.groups:
            yield packing.flatten([self.train.examples[place] for place in group])


def prepare(
    conversations: Sequence[Conversation],
    validation: Sequence[Conversation] | None,
    *,
    spec: TrainSpec,
    renderer: Renderer,
    check: Callable[[], object] = lambda: None,
) -> Prepared:
    """Split, render, fit and pack.

    Args:
        conversations: In the order of the file.
        validation: Those of a validation set of its own, if the spec names one.
        spec: As resolved.
        renderer: Of the base.
        check: Called at every row; what it raises ends the work.

    Raises:
        CannotSplit: The rows have fewer than two prompts, and the spec wants a part of them for validation.
        InvalidMessages, NoChatFormat: A row can't be rendered; the message names its line.
        OverlongRows: Rows are too long, and the spec wants to be told.
        NoRowsLeft, NoValidationRows: Every row of a side was dropped.
    """
    learnt: Sequence[Conversation] = conversations
    if validation is None and spec.validation_ratio is not None:
        sides = splits.split(conversations, ratio=spec.validation_ratio, seed=spec.seed)
        learnt, validation = sides.train, sides.validation
    train = _fitted(learnt, spec=spec, renderer=renderer, check=check)
    if not train.examples:
        raise NoRowsLeft(_nothing_left(train, spec, side="to train on"), param="max_length")
    checked = None if validation is None else _fitted(validation, spec=spec, renderer=renderer, check=check)
    if checked is not None and not checked.examples:
        raise NoValidationRows(_nothing_left(checked, spec, side="to validate on"), param="max_length")
    return Prepared(train=train, validation=checked, groups=_groups(train.examples, spec))


def _fitted(
    conversations: Sequence[Conversation], *, spec: TrainSpec, renderer: Renderer, check: Callable[[], object]
) -> Fitted:
    def rendered() -> Iterator[Example]:
        for conversation in conversations:
            check()
            yield renderer.example(conversation, system=spec.system_prompt)

    limit = min(spec.max_length or renderer.context_length, renderer.context_length)
    return examples.fit(rendered(), max_length=limit, overlong=spec.overlong)


def _groups(samples: Sequence[Example], spec: TrainSpec) -> tuple[tuple[int, ...], ...]:
    """Each sample by itself, or packed to `pack_length` tokens in an order that the seed decides."""
    order = list(range(len(samples)))
    if spec.packing == "exact":
        return tuple((place,) for place in order)
    random.Random(spec.seed).shuffle(order)
    rows = packing.first_fit([len(samples[place]) for place in order], pack_length=spec.pack_length)
    return tuple(tuple(order[index] for index in row) for row in rows)


def _nothing_left(fitted: Fitted, spec: TrainSpec, *, side: str) -> str:
    if dropped := len(fitted.dropped_lines):
        return (
            f"No row is left {side}: all {dropped} are longer than max_length ({spec.max_length} tokens) and overlong "
            "is 'drop'. Raise max_length or shorten the rows."
        )
    return f"No row is left {side}. Upload more rows, or change validation_ratio."
