"""What a plan counts is what the trainer logs: tokens of every step, steps, evaluations, rows that were cut or left out."""

import json
import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from core.domain import formats, memory, orders
from core.domain.datasets import Conversation, Turn
from core.domain.jobs import Phase
from core.domain.plans import Outline
from core.domain.rows import FORMATS
from core.domain.training import TrainSpec
from core.text import outlines, shares
from core.text.chat import Renderer
from core.text.prepared import Prepared, prepare
from tests.support import tiny_base, writers
from tests.support import training as t
from worker.messages import Finished
from worker.trainer import data
from worker.trainer.attempt import HeldBase
from worker.trainer.rows import StepBatch, batch
from worker.trainer.wishes import Wishes

BASE = memory.Dimensions(
    hidden=64, intermediate=96, layers=2, heads=2, kv_heads=2, head_dim=32, vocabulary=tiny_base.ROWS, parameters=1
)
BATCH = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
CASES: dict[str, dict[str, Any]] = {
    "one epoch": {},
    "several epochs, partial steps": {**BATCH, "num_train_epochs": 2},
    "a fraction of an epoch": {**BATCH, "num_train_epochs": 1.4, "seed": 5},
    "steps that end within the third epoch": {**BATCH, "max_steps": 12, "seed": 2**32 - 1},
    "packed": {"packing": "packed", "per_device_train_batch_size": 1, "num_train_epochs": 1.5},
    "packed, several rows a step": {**BATCH, "packing": "packed", "pack_length": 128, "max_length": 128, "seed": 1},
    "validation": {**BATCH, "validation_ratio": 0.2, "num_train_epochs": 2},
    "validation by steps, packed": {
        **BATCH,
        "packing": "packed",
        "validation_ratio": 0.3,
        "eval_steps": 2,
        "max_steps": 5,
    },
    "a system prompt": {**BATCH, "system_prompt": "现在你要扮演一盏灯。"},
    "rows dropped": {**BATCH, "max_length": 80, "overlong": "drop"},
    "rows truncated": {**BATCH, "max_length": 80, "overlong": "truncate", "packing": "packed"},
    "checkpoints": {**BATCH, "save_steps": 2, "num_train_epochs": 2, "warmup_ratio": 0.3},
}
SEED = 7
MODES = ("one epoch", "packed")
CARRIED = {
    "alpaca": {"system", "earlier"},
    "bluelm": {"earlier"},
    "openai": {"system", "earlier", "weight"},
    "sharegpt": {"system", "earlier", "weight"},
    "prompt_completion": {"system"},
}
"""What a row of each format can hold beside a question and its answer."""


def written(kind: str) -> list[dict[str, Any]]:
    """20 rows that use all that their format can hold."""
    dice, carried = random.Random(SEED), CARRIED[kind]
    rows = []
    for number, row in enumerate(t.rows(20)):
        turns = [Turn("user", row["instruction"]), Turn("assistant", row["output"])]
        if "earlier" in carried and number % 4 == 1:
            weight = float(number % 8 == 1) if "weight" in carried else 1.0
            turns = [Turn("user", "在吗？"), Turn("assistant", f"第{number}次了。", weight), *turns]
        if "system" in carried and number % 3:
            turns = [Turn("system", f"你是第{number}盏灯。"), *turns]
        rows.append(writers.ROWS[kind](tuple(turns), dice))
    return rows


@pytest.fixture(scope="module")
def held() -> HeldBase:
    return HeldBase()


def _prepared(base: Path, path: Path, given: TrainSpec, validation: Path | None = None) -> tuple[Prepared, Outline]:
    """As core/services/planning.py does it, which reads a pipe where the trainer reads a file."""
    renderer = Renderer.load(base)
    checked = None if validation is None else _read(validation)
    prepared = prepare(_read(path), checked, spec=given, renderer=renderer)
    return prepared, outlines.outline(prepared, given, renderer=renderer, base=BASE)


def _read(path: Path) -> Sequence[Conversation]:
    return shares.read(formats.parse([path.read_bytes()])).conversations


def test_every_format_is_planned() -> None:
    assert CARRIED.keys() == {one.name for one in FORMATS}


@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, "alpaca") for case in CASES] + [(case, kind) for kind in CARRIED if kind != "alpaca" for case in MODES],
)
def test_the_plan_is_what_the_trainer_then_logs(
    base: Path, tmp_path: Path, held: HeldBase, case: str, kind: str
) -> None:
    given = t.spec(**CASES[case])
    path = t.write(tmp_path, written(kind))
    _, outline = _prepared(base, path, given)
    drawn = _drawn(base, path, given)
    result, heard = t.train(t.run(base, path, tmp_path / "out", given), held=held)
    assert isinstance(result, Finished)
    assert outline.trained_tokens == outline.low == outline.high == result.trained_tokens
    assert outline.steps.total == result.step == heard.progress[-1].total_steps
    assert [event.trained_tokens for event in heard.progress] == list(accumulate(step.tokens for step in drawn))
    assert outline.trained_labels == sum(step.labels for step in drawn)
    assert outline.evaluations == len(heard.evaluated) == heard.phases.count(Phase.EVALUATING)
    assert outline.checkpoints == len(heard.checkpoints)
    metrics = json.loads((Path(result.bundle_dir) / "manifest.json").read_text())["metrics"]
    assert metrics["samples"] == outline.train.rows
    assert metrics["dropped"] == outline.train.dropped == len(outline.train.dropped_lines)
    assert metrics["truncated"] == outline.train.truncated == len(outline.train.truncated_lines)
    assert (outline.validation is not None) == bool(heard.evaluated)


def _drawn(base: Path, path: Path, given: TrainSpec) -> list[StepBatch]:
    """The batch of each step, of the trainer's own rows."""
    source = data.Source(path=path, sha256=t.sha256(path))
    rows = data.load(source, None, spec=given, renderer=Renderer.load(base), wishes=Wishes()).rows
    return [batch([rows[place] for place in step]) for step in orders.steps(len(rows), given)]


def test_a_validation_set_of_its_own_is_planned_and_trained_alike(base: Path, tmp_path: Path, held: HeldBase) -> None:
    path, other = t.write(tmp_path, t.rows(9)), t.write(tmp_path, t.rows(4), name="other.jsonl")
    given = t.spec(validation_dataset="ds_2", eval_steps=3)
    _, outline = _prepared(base, path, given, other)
    run = t.run(base, path, tmp_path / "out", given, validation_path=str(other), validation_sha256=t.sha256(other))
    result, heard = t.train(run, held=held)
    assert outline.trained_tokens == result.trained_tokens
    assert outline.evaluations == len(heard.evaluated)
    assert outline.validation is not None
    assert outline.validation.rows == 4
    assert isinstance(result, Finished)
    manifest = json.loads((Path(result.bundle_dir) / "manifest.json").read_text())
    assert (manifest["dataset_sha256"], manifest["validation_sha256"]) == (t.sha256(path), t.sha256(other))


def test_padding_avoided_is_what_the_padded_batches_of_the_same_order_hold(base: Path, tmp_path: Path) -> None:
    given = t.spec(**BATCH, num_train_epochs=2)
    prepared, outline = _prepared(base, t.write(tmp_path, t.rows(20)), given)
    lengths = [len(example) for example in prepared.train.examples]
    padded = 0
    for number in range(2):
        order = orders.epoch(20, seed=42, number=number)
        for step in range(0, 20, 6):
            for micro in (order[step : step + 3], order[step + 3 : min(step + 6, 20)]):
                padded += max((lengths[place] for place in micro), default=0) * len(micro)
    assert outline.padding_avoided == padded - outline.trained_tokens > 0
