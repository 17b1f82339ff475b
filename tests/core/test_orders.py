"""The order of rows is torch's, computed without it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.domain import orders
from core.domain.training import TrainSpec


@given(items=st.integers(0, 300), seed=st.integers(0, 2**32 - 1), number=st.integers(0, 5))
def test_an_epoch_is_the_permutation_that_torch_draws(items: int, seed: int, number: int) -> None:
    generator = torch.Generator()
    generator.manual_seed(seed + number)
    assert orders.epoch(items, seed=seed, number=number) == torch.randperm(items, generator=generator).tolist()


@pytest.mark.parametrize(("epochs", "max_steps"), [(2, None), (1.5, None), (1, 7)])
def test_steps_draw_every_row_once_an_epoch_and_end_with_the_last_step(epochs: float, max_steps: int | None) -> None:
    spec = TrainSpec(
        dataset="ds",
        name="steps",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=epochs,
        max_steps=max_steps,
    )
    drawn = list(orders.steps(10, spec))
    assert [len(step) for step in drawn] == ([4, 4, 2] * 3)[: max_steps or int(epochs * 3 + 0.5)]
    assert sorted(place for step in drawn[:3] for place in step) == list(range(10))
    assert drawn[:3] != drawn[3:6]
