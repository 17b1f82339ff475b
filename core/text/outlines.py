"""What a training would come to, counted on the very rows and steps that the trainer would take.

Knows no tensors, no files and no deployment.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from core.domain import memory, orders
from core.domain import steps as counting
from core.domain.memory import Dimensions, Load
from core.domain.plans import SHOWN_LINES, SHOWN_PIECES, SHOWN_ROWS, Outline, Preview, Side, Tokens, Why
from core.domain.steps import Steps
from core.domain.training import TrainSpec
from core.text import packing
from core.text.chat import Renderer
from core.text.examples import IGNORED, Example, Fitted
from core.text.prepared import Prepared
from core.text.shares import WHOLE, Share

MAX_DRAWS: Final = 500_000
"""Steps are walked through one by one up to so many drawn rows; what is beyond repeats them closely enough."""
TUTORIAL_BATCH: Final = 8
"""What packed rows are compared with: the tutorial pads eight samples to the longest of them."""


@dataclass(frozen=True, slots=True)
class _Item:
    """What the sampler draws, in numbers: tokens of each sample, and labels of all."""

    lengths: tuple[int, ...]
    labels: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


def outline(
    prepared: Prepared,
    spec: TrainSpec,
    *,
    renderer: Renderer,
    base: Dimensions,
    share: Share = WHOLE,
    validation_share: Share = WHOLE,
) -> Outline:
    """Count everything that the rows say of a training.

    Args:
        prepared: The rows.
        spec: As resolved.
        renderer: Of the base.
        base: Its sizes.
        share: What the training rows stand for, where they are not all.
        validation_share: Likewise.
    """
    items = [
        _Item(
            lengths=tuple(len(prepared.train.examples[place]) for place in group),
            labels=sum(_labels(prepared.train.examples[place]) for place in group),
        )
        for group in prepared.groups
    ]
    steps = counting.count(math.ceil(len(items) * share.rows), spec)
    read = steps if share == WHOLE else counting.count(len(items), spec)
    total, labels = _trained(items, spec, steps=read)
    walk = _walk(items, spec)
    # From the tokens of the sample to those of the file, and from the steps over the one to those over the other.
    grown = 1.0 if share == WHOLE else share.tokens * (steps.total / steps.per_epoch) / (read.total / read.per_epoch)
    validation = None if prepared.validation is None else _side(prepared.validation, validation_share)
    checked = [] if prepared.validation is None else prepared.validation.examples
    peaks = {
        precision: memory.estimate(base, spec, loads=walk.loads, evaluated=_evaluated(checked), precision=precision)
        for precision in memory.PRECISIONS
    }
    trained_tokens = round(total * grown)
    return Outline(
        estimated=share != WHOLE or validation_share != WHOLE,
        read_rows=len(prepared.train.examples) + len(checked),
        steps=steps,
        evaluations=math.ceil(steps.total / steps.evaluate_every) if prepared.validation else 0,
        checkpoints=(steps.total - 1) // spec.save_steps,
        train=_side(prepared.train, share),
        validation=validation,
        packed_rows=math.ceil(len(items) * share.rows) if spec.packing == "packed" else None,
        trained_tokens=trained_tokens,
        trained_labels=round(labels * grown),
        low=min(trained_tokens, round(trained_tokens * share.low / share.tokens)),
        high=max(trained_tokens, round(trained_tokens * share.high / share.tokens)),
        padding_avoided=round(walk.padding * trained_tokens / max(walk.tokens, 1)),
        peaks=peaks,
        previews=_previews(prepared.train.examples, renderer),
    )


def _labels(example: Example) -> int:
    return len(example.labels) - example.labels.count(IGNORED)


def _trained(items: Sequence[_Item], spec: TrainSpec, *, steps: Steps) -> tuple[int, int]:
    """Tokens and labels of all steps: whole epochs draw every row once, the last one may be cut short."""
    whole, rest = divmod(steps.total, steps.per_epoch)
    tokens = whole * sum(item.tokens for item in items)
    labels = whole * sum(item.labels for item in items)
    if rest:
        last = orders.epoch(len(items), seed=spec.seed, number=whole)[: rest * steps.samples]
        tokens += sum(items[place].tokens for place in last)
        labels += sum(items[place].labels for place in last)
    return tokens, labels


@dataclass(frozen=True, slots=True)
class _Walk:
    """What only the steps themselves show, over `tokens` of the training's."""

    tokens: int
    padding: int
    loads: frozenset[Load]


def _walk(items: Sequence[_Item], spec: TrainSpec) -> _Walk:
    tokens = padding = drawn = 0
    loads: set[Load] = set()
    for places in orders.steps(len(items), spec):
        step = [items[place] for place in places]
        tokens += sum(item.tokens for item in step)
        padding += _padding(step, spec)
        loads.update(_loads(step))
        drawn += len(step)
        if drawn >= MAX_DRAWS and drawn >= len(items):
            break
    return _Walk(tokens, padding, frozenset(loads))


def _padding(step: Sequence[_Item], spec: TrainSpec) -> int:
    """Tokens that padding this step's samples, micro-batch by micro-batch, to their longest would add."""
    lengths = [length for item in step for length in item.lengths]
    batch = spec.per_device_train_batch_size if spec.packing == "exact" else TUTORIAL_BATCH
    parts = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(max(part) * len(part) - sum(part) for part in parts)


def _loads(step: Sequence[_Item]) -> Iterator[Load]:
    """The passes that the trainer splits a step into."""
    for group in packing.micro_batches([item.tokens for item in step]):
        lengths = [length for place in group for length in step[place].lengths]
        labels = sum(step[place].labels for place in group)
        yield Load(tokens=sum(lengths), labels=labels, slots=len(lengths) * max(lengths))


def _evaluated(examples: Sequence[Example]) -> list[Load]:
    return list(_loads([_Item((len(example),), _labels(example)) for example in examples])) if examples else []


def _side(fitted: Fitted, share: Share) -> Side:
    lengths = [len(example) for example in fitted.examples]
    return Side(
        rows=round(len(lengths) * share.rows),
        tokens=Tokens(
            total=round(sum(lengths) * share.tokens),
            trained=round(sum(map(_labels, fitted.examples)) * share.tokens),
        ),
        longest=max(lengths, default=0),
        dropped=round(len(fitted.dropped_lines) * share.rows),
        truncated=round(len(fitted.truncated_lines) * share.rows),
        dropped_lines=fitted.dropped_lines[:SHOWN_LINES],
        truncated_lines=fitted.truncated_lines[:SHOWN_LINES],
    )


def _previews(examples: Sequence[Example], renderer: Renderer) -> tuple[Preview, ...]:
    """Three rows, no row twice: the first, a truncated one if there is one, the longest, else from middle and end."""
    truncated = next((example for example in examples if example.truncated), None)
    candidates: list[tuple[Why, Example | None]] = [
        ("first", examples[0]),
        ("truncated", truncated),
        ("longest", max(examples, key=len)),
        ("middle", examples[len(examples) // 2]),
        ("last", examples[-1]),
    ]
    wanted: dict[int, tuple[Why, Example]] = {}
    for why, example in candidates:
        if example is not None:
            wanted.setdefault(id(example), (why, example))
    return tuple(
        Preview(
            line=example.line,
            why=why,
            tokens=Tokens(total=len(example), trained=_labels(example)),
            pieces=renderer.pieces(example, at_most=SHOWN_PIECES),
            omitted=max(len(example) - SHOWN_PIECES, 0),
        )
        for why, example in list(wanted.values())[:SHOWN_ROWS]
    )
