"""Synthetic samples with the tutorial's lengths: derived numbers only, no text.

`lengths.json` holds [prompt_tokens, response_tokens] of its 3,729 rows, at one token a character.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from bench.shapes import Shape

LENGTHS = Path(__file__).with_name("lengths.json")
BOS, EOS, IGNORED, FIRST_PIECE = 1, 2, -100, 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One row as the tutorial tokenises it: `<s>` prompt answer `</s>`.

    The tutorial's mask also labels `<s>`, which the shift within a padded row drops again.
    """

    input_ids: list[int]
    labels: list[int]


def samples(count: int, *, shape: Shape, seed: int) -> list[Sample]:
    """Draw samples with the tutorial's lengths, cut to the shape's longest, and random pieces."""
    source = random.Random(seed)
    pairs = source.sample(json.loads(LENGTHS.read_text()), count)
    return [_sample(prompt, answer, shape=shape, source=source) for prompt, answer in pairs]


def _sample(prompt: int, answer: int, *, shape: Shape, source: random.Random) -> Sample:
    answer = min(answer, shape.max_tokens // 2)
    prompt = min(prompt, shape.max_tokens - answer - 2)
    ids = [source.randrange(FIRST_PIECE, shape.rows) for _ in range(prompt + answer)]
    return Sample(
        input_ids=[BOS, *ids, EOS],
        labels=[BOS, *[IGNORED] * prompt, *ids[prompt:], EOS],
    )
