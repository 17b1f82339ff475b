"""How many optimizer steps a training takes: the arithmetic of transformers' Trainer 5.23, in one place.

An epoch of n samples has ceil(ceil(n / batch) / accumulation) steps; its last step takes what is left. That equals
ceil(n / (batch * accumulation)), so one flattened row of batch * accumulation samples a step gives the same steps.
(Trainer before version 5 rounded the outer division down: the tutorial's published 699 steps are 702 today.)
"""

import math
from dataclasses import dataclass

from core.domain.training import TrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Optimizer steps of a training. `samples` is what one full step takes; warm-up is counted within `total`."""

    samples: int
    per_epoch: int
    total: int
    warmup: int
    evaluate_every: int


def count(items: int, spec: TrainSpec) -> Steps:
    """Count the steps that `spec` takes over `items` samples (or packed rows).

    `max_steps` wins over `num_train_epochs`, fractions of an epoch and of a warm-up round up, and evaluation without
    `eval_steps` comes at the end of each epoch.
    """
    batches = math.ceil(items / spec.per_device_train_batch_size)
    per_epoch = max(math.ceil(batches / spec.gradient_accumulation_steps), 1)
    total = spec.max_steps or math.ceil(spec.num_train_epochs * per_epoch)
    return Steps(
        samples=spec.per_device_train_batch_size * spec.gradient_accumulation_steps,
        per_epoch=per_epoch,
        total=total,
        warmup=math.ceil(total * spec.warmup_ratio),
        evaluate_every=spec.eval_steps or per_epoch,
    )
