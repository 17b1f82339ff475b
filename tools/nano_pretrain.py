"""Pretraining of bluelm-nano: batches of dialogues, AdamW, loss on answers only.

Everything random comes from seeds given here, so the losses are the same on every machine up to rounding.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.nano_model import BlueLM
from tools.nano_tokenizer import IGNORED, PAD, Example


@dataclass(frozen=True)
class Recipe:
    """What the pretraining does; `dialogues` is the corpus size, `batch` is in dialogues."""

    dialogues: int = 80_000
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 3e-3
    warmup: int = 60
    weight_decay: float = 0.05
    seed: int = 7


def batches(examples: Sequence[Example], *, batch: int, seed: int) -> Iterator[list[Example]]:
    """Yield batches of about equal length for ever, in an order that the seed decides."""
    rng = random.Random(seed)
    while True:
        order = list(range(len(examples)))
        rng.shuffle(order)
        window = batch * 40
        for start in range(0, len(order) - window + 1, window):
            near = sorted(order[start : start + window], key=lambda index: (len(examples[index].ids), index))
            cuts = [near[cut : cut + batch] for cut in range(0, window, batch)]
            rng.shuffle(cuts)
            for cut in cuts:
                yield [examples[index] for index in cut]


def collate(group: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Right-padded `ids_BT` and `labels_BT`, int64."""
    length = max(len(example.ids) for example in group)
    ids = [[*each.ids, *[PAD] * (length - len(each.ids))] for each in group]
    labels = [[*each.labels, *[IGNORED] * (length - len(each.labels))] for each in group]
    return torch.tensor(ids), torch.tensor(labels)


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate of a step: linear warm-up, then cosine to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def pretrain(
    model: BlueLM,
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    steps: int,
    progress: Callable[[int, float], None],
) -> list[float]:
    """Train in place for `steps` of the recipe's steps and return the loss of each, in nats per answer token."""
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    losses: list[float] = []
    stream = batches(examples, batch=recipe.batch, seed=recipe.seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, recipe)
        loss = model.loss(*collate(next(stream)))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        progress(step, losses[-1])
    return losses
