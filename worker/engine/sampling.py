"""Logits -> the next token of each row. Knows no model; a row's outcome depends on its own logits and seed alone.

Axes: B rows, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from core.inference.protocol import CompletionRequest

GREEDY_BELOW: Final = 1e-5
"""Temperatures under this are greedy, as in vLLM; dividing by them would overflow."""


class Draw:
    """How one row's tokens are chosen, and which it has had. Prompt tokens count for the repetition penalty."""

    def __init__(self, asked: CompletionRequest, *, vocabulary: int, device: torch.device) -> None:
        self.penalty = asked.repetition_penalty
        self.seen_V = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.see(asked.prompt)
        self._warpers = LogitsProcessorList()
        self._generator: torch.Generator | None = None
        if asked.temperature >= GREEDY_BELOW:
            self._warpers.append(TemperatureLogitsWarper(float(asked.temperature)))
            if asked.top_k > 0:
                self._warpers.append(TopKLogitsWarper(asked.top_k))
            if asked.top_p < 1:
                self._warpers.append(TopPLogitsWarper(asked.top_p))
            self._generator = torch.Generator(device)
            self._generator.seed() if asked.seed is None else self._generator.manual_seed(asked.seed)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self._generator is None

    def see(self, tokens: Iterable[int]) -> None:
        """Note tokens of the row."""
        self.seen_V[list(tokens)] = True

    def sample(self, scores_V: Tensor) -> int:
        """Draw a token; top_p keeps the likeliest that together reach it, as in transformers."""
        scores_1V = self._warpers(torch.empty(1, 0, dtype=torch.long, device=scores_V.device), scores_V[None])
        return int(torch.multinomial(scores_1V.softmax(-1), 1, generator=self._generator))


def choose(logits_BV: Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """Choose every row's next token, and note it; None where the logits are not finite, so that nothing can be chosen."""
    scores_BV = penalise(logits_BV.float(), draws)
    best_B = scores_BV.argmax(-1)
    fine_B = scores_BV.amax(-1).isfinite()
    chosen: list[int | None] = []
    for row, (best, fine) in enumerate(torch.stack((best_B, fine_B.long()), dim=-1).tolist()):
        if not fine:
            chosen.append(None)
            continue
        token = best if draws[row].is_greedy else draws[row].sample(scores_BV[row])
        draws[row].see([token])
        chosen.append(token)
    return chosen


def penalise(scores_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Make tokens that a row has had less likely, by its repetition penalty.

    Source: Keskar et al., https://arxiv.org/abs/1909.05858, with the sign rule that transformers uses.
    """
    if all(draw.penalty == 1 for draw in draws):
        return scores_BV
    penalty_B1 = scores_BV.new_tensor([[draw.penalty] for draw in draws])
    seen_BV = torch.stack([draw.seen_V for draw in draws])
    return torch.where(seen_BV, torch.where(scores_BV < 0, scores_BV * penalty_B1, scores_BV / penalty_B1), scores_BV)
