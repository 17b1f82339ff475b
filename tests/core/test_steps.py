"""The arithmetic of steps, against the tutorial's numbers and Trainer's own."""

from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from core.domain import steps
from tests.support.training import spec


def test_the_tutorial_takes_234_steps_an_epoch_and_702_in_all() -> None:
    counted = steps.count(3729, spec(per_device_train_batch_size=8, num_train_epochs=3.0))
    assert (counted.samples, counted.per_epoch, counted.total) == (16, 234, 702)


@pytest.mark.parametrize("items", [1, 7, 15, 16, 17, 24, 33])
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 2), (3, 4), (1, 5), (4, 1)])
@pytest.mark.parametrize("epochs", [0.3, 1.0, 2.5])
def test_steps_are_those_that_trainer_plans(
    items: int, batch: int, accumulation: int, epochs: float, tmp_path: Path
) -> None:
    given = spec(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=epochs)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
        use_cpu=True,
        report_to="none",
    )
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=args, train_dataset=[{"x": 0}] * items)
    plan = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    counted = steps.count(items, given)
    assert (counted.per_epoch, counted.total) == (plan[1], plan[6])


def test_max_steps_wins_over_epochs() -> None:
    assert steps.count(100, spec(max_steps=3, num_train_epochs=50.0)).total == 3


@pytest.mark.parametrize(("ratio", "warmup"), [(0.0, 0), (0.03, 3), (0.5, 50), (1.0, 100)])
def test_a_warmup_ratio_is_a_share_of_all_steps(ratio: float, warmup: int) -> None:
    assert steps.count(1, spec(max_steps=100, warmup_ratio=ratio)).warmup == warmup


def test_evaluation_without_eval_steps_comes_each_epoch() -> None:
    assert steps.count(100, spec(per_device_train_batch_size=5, gradient_accumulation_steps=2)).evaluate_every == 10
    assert steps.count(100, spec(validation_ratio=0.1, eval_steps=7)).evaluate_every == 7
