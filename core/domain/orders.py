"""In which order a training draws its rows: known before it begins, to a plan as to the trainer.

The order of an epoch is the permutation that torch's sampler draws under accelerate (`torch.randperm` by a generator
seeded with seed + epoch), computed here without torch, so that a plan names the very rows of every step. The trainer
draws from here too: whatever later versions of those libraries do, the two agree.
"""

import random
from collections.abc import Iterator

from core.domain import steps as counting
from core.domain.training import TrainSpec

_WORDS = 624
_MASK = 2**32 - 1


def epoch(items: int, *, seed: int, number: int) -> list[int]:
    """Permute the indices of `items` for one epoch, counted from 0.

    Source: torch's `randperm` on a CPU (aten/src/ATen/native/TensorFactories.cpp): Fisher and Yates from the front,
    each place drawn as one 32-bit word of the Mersenne Twister modulo what is left.
    """
    words = _twister(seed + number)
    order = list(range(items))
    for place in range(items - 1):
        other = place + words.getrandbits(32) % (items - place)
        order[place], order[other] = order[other], order[place]
    return order


def steps(items: int, spec: TrainSpec) -> Iterator[list[int]]:
    """Give the indices that each optimizer step of the whole training learns from, in order."""
    counts = counting.count(items, spec)
    left, number = counts.total, 0
    while left:
        order = epoch(items, seed=spec.seed, number=number)
        for start in range(0, items, counts.samples):
            yield order[start : start + counts.samples]
            left -= 1
            if not left:
                return
        number += 1


def _twister(seed: int) -> random.Random:
    """Python's generator in the state that a 32-bit seed puts torch's into; `random.seed` would mix it first.

    Source: Matsumoto and Nishimura, mt19937ar.c, init_genrand.
    """
    state = [seed & _MASK]
    for place in range(1, _WORDS):
        before = state[-1]
        state.append((1_812_433_253 * (before ^ (before >> 30)) + place) & _MASK)
    twister = random.Random()
    twister.setstate((3, (*state, _WORDS), None))
    return twister
