"""Choosing tokens, held against transformers' own processors."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from core.inference.protocol import CompletionRequest
from worker.engine.sampling import Draw, choose, penalise

VOCABULARY = 50
CPU = torch.device("cpu")


def draw(**fields: object) -> Draw:
    asked = CompletionRequest.model_validate({"model": "m", "prompt": [1], **fields})
    return Draw(asked, vocabulary=VOCABULARY, device=CPU)


def test_the_repetition_penalty_is_transformers_over_prompt_and_answer() -> None:
    logits_BV = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0))
    seen = [[1, 5, 5, 9], [2], [3, 4]]
    penalties = [1.1, 1.0, 0.7]
    draws = [draw(prompt=ids[:1], repetition_penalty=p, temperature=0) for ids, p in zip(seen, penalties, strict=True)]
    for row, ids in zip(draws, seen, strict=True):
        row.see(ids[1:])
    got = penalise(logits_BV.clone(), draws)
    for place, (ids, penalty) in enumerate(zip(seen, penalties, strict=True)):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits_BV[place : place + 1].clone())
        assert torch.equal(got[place], expected[0])


def test_samples_follow_transformers_distribution() -> None:
    logits_V = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2
    row = draw(temperature=0.7, top_k=12, top_p=0.8, seed=3)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(0.7), TopKLogitsWarper(12), TopPLogitsWarper(0.8)])
    expected_V = warpers(torch.zeros(1, 0, dtype=torch.long), logits_V[None])[0].softmax(-1)
    counts_V = torch.zeros(VOCABULARY)
    for _ in range(1500):
        counts_V[row.sample(logits_V)] += 1
    assert (counts_V[expected_V == 0] == 0).all()
    assert (counts_V / 1500 - expected_V).abs().max() < 0.05


@pytest.mark.parametrize("temperature", [0, 1e-9])
def test_temperatures_next_to_nothing_are_greedy(temperature: float) -> None:
    logits_BV = torch.tensor([[0.0, 3.0, 2.0] + [0.0] * (VOCABULARY - 3)])
    assert choose(logits_BV, [draw(temperature=temperature, top_k=1)]) == [1]


def test_rows_without_finite_logits_choose_nothing_and_leave_others_alone() -> None:
    logits_BV = torch.zeros(4, VOCABULARY)
    logits_BV[0, 7] = float("nan")
    logits_BV[1, 7] = float("inf")
    logits_BV[2] = float("-inf")
    logits_BV[3, 7] = 5.0
    rows = [draw(temperature=t, seed=1) for t in (0, 1, 1, 0)]
    assert choose(logits_BV, rows) == [None, None, None, 7]


def test_a_negative_seed_is_a_seed_and_none_is_not() -> None:
    logits_V = torch.zeros(VOCABULARY)
    seeded = [[draw(seed=-4).sample(logits_V) for _ in range(5)] for _ in range(2)]
    unseeded = {tuple(row.sample(logits_V) for _ in range(8)) for row in (draw() for _ in range(3))}
    assert seeded[0] == seeded[1]
    assert len(unseeded) == 3
