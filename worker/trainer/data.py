"""From files of conversations to rows of tensors: verified, split, rendered, fitted, packed.

Knows no model. What comes out depends on the files, the base's chat format and the spec alone.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.domain import formats, splits
from core.domain.datasets import Conversation
from core.domain.duplicates import without
from core.domain.training import TrainSpec
from core.storage import files
from core.text import examples, packing
from core.text.chat import Renderer
from core.text.examples import Example
from worker.trainer import rows as flat
from worker.trainer.failures import Damaged, UserError
from worker.trainer.rows import Row
from worker.trainer.wishes import Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of conversations, and the hash it must have."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is trained on. `rows` are what the sampler draws: samples, or packed rows of several.

    `samples`, `dropped` and `truncated` count conversations of the training side, `duplicates` those that were left
    out of it, and of what was split from it, since they repeat an earlier one.
    """

    rows: tuple[Row, ...]
    validation: tuple[Row, ...]
    samples: int
    duplicates: int
    dropped: int
    truncated: int


def load(train: Source, validation: Source | None, *, spec: TrainSpec, renderer: Renderer, wishes: Wishes) -> Loaded:
    """Read and render everything; a stop asked meanwhile leaves at the next row.

    Raises:
        Damaged: A file's bytes are not what its hash says.
        UserError: No row is left to train or to validate on.
        Problem: A row can't be rendered or is too long; the message names its line.
        StopAsked: Cancel or pause.
    """
    conversations, duplicates = _conversations(train), 0
    if spec.deduplicate:
        unique = without(conversations)
        conversations, duplicates = unique.conversations, len(unique.left_out_lines)
    if validation:
        learnt, held_out = conversations, _conversations(validation)
    elif spec.validation_ratio is not None:
        sides = splits.split(conversations, ratio=spec.validation_ratio, seed=spec.seed)
        learnt, held_out = sides.train, sides.validation
    else:
        learnt, held_out = conversations, ()
    fitted = _fit(learnt, spec=spec, renderer=renderer, wishes=wishes)
    if not fitted.examples:
        raise UserError("no_rows_left", _nothing_left(len(fitted.dropped_lines), spec, side="to train on"))
    checked = _fit(held_out, spec=spec, renderer=renderer, wishes=wishes)
    if held_out and not checked.examples:
        raise UserError("no_validation_rows", _nothing_left(len(checked.dropped_lines), spec, side="to validate on"))
    return Loaded(
        rows=_rows(fitted.examples, spec=spec),
        validation=tuple(flat.row(one.input_ids, one.labels) for one in checked.examples),
        samples=len(fitted.examples),
        duplicates=duplicates,
        dropped=len(fitted.dropped_lines),
        truncated=len(fitted.truncated_lines),
    )


def _conversations(source: Source) -> Sequence[Conversation]:
    if files.sha256_of(source.path) != source.sha256:
        raise Damaged("dataset_changed", "The data set's bytes on this worker are not those that were uploaded.")
    return tuple(formats.parse_file(source.path))


def _fit(
    conversations: Sequence[Conversation], *, spec: TrainSpec, renderer: Renderer, wishes: Wishes
) -> examples.Fitted:
    def rendered() -> Iterator[Example]:
        for conversation in conversations:
            wishes.check()
            yield renderer.example(conversation, system=spec.system_prompt)

    limit = min(spec.max_length or renderer.context_length, renderer.context_length)
    return examples.fit(rendered(), max_length=limit, overlong=spec.overlong)


def _rows(samples: Sequence[Example], *, spec: TrainSpec) -> tuple[Row, ...]:
    """One row a sample, or samples packed to `pack_length` tokens in an order that the seed decides."""
    if spec.packing == "exact":
        return tuple(flat.row(one.input_ids, one.labels) for one in samples)
    order = list(samples)
    random.Random(spec.seed).shuffle(order)
    packed = packing.packed(order, pack_length=spec.pack_length)
    return tuple(flat.row(one.input_ids_T, one.labels_T, starts=one.starts_S) for one in packed)


def _nothing_left(dropped: int, spec: TrainSpec, *, side: str) -> str:
    if dropped:
        return (
            f"No row is left {side}: all {dropped} are longer than max_length ({spec.max_length} tokens) and overlong "
            "is 'drop'. Raise max_length or shorten the rows."
        )
    return f"No row is left {side}. Upload more rows, or change validation_ratio."
