"""What one attempt does: events, stops, evaluation, packing, and the bundle it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from core.domain import formats
from core.domain.jobs import Phase
from core.storage import bundles
from core.text.chat import Renderer
from core.text.examples import OverlongRows
from core.text.prepared import NoRowsLeft
from tests.support import tiny_base
from tests.support import training as t
from worker.messages import Finished, Stopped
from worker.trainer import data
from worker.trainer.attempt import HeldBase
from worker.trainer.failures import Damaged, NotFinite, UserError
from worker.trainer.wishes import StopAsked, Wishes


def test_an_attempt_tells_its_phases_its_progress_and_where_its_adapter_is(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(20))
    given = t.spec(max_steps=5, logging_steps=2, lora_dropout=0.0)
    result, heard = t.train(t.run(base, path, tmp_path / "out", given))
    assert isinstance(result, Finished)
    assert (result.reason, result.step) == ("completed", 5)
    assert heard.phases == [Phase.LOADING, Phase.TOKENIZING, Phase.TRAINING, Phase.PUBLISHING]
    assert [event.step for event in heard.progress] == [1, 2, 4, 5]
    first, last = heard.progress[0], heard.progress[-1]
    assert first.total_steps == 5
    assert first.learning_rate == pytest.approx(1e-3)
    assert first.tokens_per_second > 0
    assert first.eta_seconds > 0
    assert last.eta_seconds == 0
    assert last.epoch == pytest.approx(1.0)
    assert last.trained_tokens == result.trained_tokens == _tokens(base, path)
    assert last.loss < first.loss
    assert heard.stepped


def _tokens(base: Path, path: Path) -> int:
    renderer = Renderer.load(base)
    return sum(len(renderer.example(one).input_ids) for one in formats.parse_file(path))


def test_plain_peft_loads_the_adapter_on_the_plain_base(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(6))
    given = t.spec(max_steps=2, r=4, lora_alpha=12, use_rslora=True, target_modules=["q_proj", "down_proj"])
    result, _ = t.train(t.run(base, path, tmp_path / "out", given))
    assert isinstance(result, Finished)
    config = json.loads((Path(result.bundle_dir) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-base"
    assert config["inference_mode"] is True
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 12, True)
    plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, result.bundle_dir).eval()
    ids = torch.tensor([[1, tiny_base.PIECES.index("[|Human|]:"), 50, 60, 70]])
    adapted = loaded(input_ids=ids).logits
    with loaded.disable_adapter():
        assert not torch.equal(adapted, loaded(input_ids=ids).logits)
    kinds = {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[-1] for name in t.weights(result)}
    assert kinds == {"q_proj", "down_proj"}


def test_the_manifest_says_what_the_adapter_was_made_from(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(6))
    given = t.spec(max_steps=2, system_prompt="你是一盏灯。")
    run = t.run(base, path, tmp_path / "out", given, attempt=3)
    result, _ = t.train(run)
    assert isinstance(result, Finished)
    folder = Path(result.bundle_dir)
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    bundles.verify(folder, t.sha256(folder / "manifest.json"))
    assert manifest["spec"] == given.model_dump(mode="json")
    expected = {
        "job": "job_1",
        "attempt": 3,
        "step": 2,
        "base": "tiny-base",
        "base_fingerprint": run.base_fingerprint,
        "dataset_sha256": run.dataset_sha256,
        "template_hash": run.template_hash,
        "system_prompt": "你是一盏灯。",
    }
    assert {name: manifest[name] for name in expected} == expected
    assert {"torch", "transformers", "peft", "bluelora"} <= manifest["versions"].keys()
    assert manifest["metrics"]["samples"] == 6


def test_the_same_seed_and_spec_give_the_same_loss_also_on_a_held_base(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(12))
    held = HeldBase()
    runs = [t.run(base, path, tmp_path / f"out{number}", t.spec(max_steps=4)) for number in range(3)]
    _, first = t.train(runs[0], held=held)
    _, other = t.train(runs[1].model_copy(update={"spec": t.spec(max_steps=4, seed=1)}), held=held)
    _, again = t.train(runs[2], held=held)
    assert first.losses == again.losses
    assert first.losses != other.losses


def test_another_base_replaces_the_one_that_is_held(base: Path, tmp_path: Path) -> None:
    other = tiny_base.make(tmp_path / "other", tiny_base.Shape(seed=8))
    path = t.write(tmp_path, t.rows(6))
    held = HeldBase()
    _, first = t.train(t.run(base, path, tmp_path / "a", t.spec(max_steps=2)), held=held)
    run = t.run(other, path, tmp_path / "b", t.spec(max_steps=2))
    _, second = t.train(run.model_copy(update={"base_fingerprint": "e" * 64}), held=held)
    assert first.losses != second.losses


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        ({"lr_scheduler_type": "linear"}, [1.0, 0.75, 0.5, 0.25]),
        ({"lr_scheduler_type": "constant"}, [1.0, 1.0, 1.0, 1.0]),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.5}, [0.0, 0.5, 1.0, 1.0]),
        ({"lr_scheduler_type": "linear", "warmup_ratio": 1.0}, [0.0, 0.25, 0.5, 0.75]),
        ({"lr_scheduler_type": "cosine"}, [1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_and_warmup_are_honoured(
    base: Path, tmp_path: Path, fields: dict[str, Any], rates: list[float]
) -> None:
    path = t.write(tmp_path, t.rows(4))
    _, heard = t.train(t.run(base, path, tmp_path / "out", t.spec(max_steps=4, learning_rate=1e-3, **fields)))
    assert [event.learning_rate for event in heard.progress] == pytest.approx([rate * 1e-3 for rate in rates], abs=1e-9)


def test_weight_decay_and_clipping_reach_the_optimizer(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(6))
    plain, _ = t.train(t.run(base, path, tmp_path / "plain", t.spec(max_steps=3, lora_dropout=0.0)))
    for name, fields in {"decay": {"weight_decay": 0.5}, "clip": {"max_grad_norm": 1e-4}}.items():
        other, _ = t.train(t.run(base, path, tmp_path / name, t.spec(max_steps=3, lora_dropout=0.0, **fields)))
        assert t.weights(other).keys() == t.weights(plain).keys()
        assert any(not torch.equal(t.weights(other)[key], value) for key, value in t.weights(plain).items())


def test_packed_rows_hold_several_samples_and_the_batch_size_counts_rows(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(24))
    given = t.spec(packing="packed", pack_length=256, per_device_train_batch_size=2, gradient_accumulation_steps=1)
    loaded = data.load(
        data.Source(path=path, sha256=t.sha256(path)),
        None,
        spec=given,
        renderer=Renderer.load(base),
        wishes=Wishes(),
    )
    assert loaded.samples == 24
    assert len(loaded.rows) < 12
    assert all(row.tokens <= 256 for row in loaded.rows)
    assert sum(len(row.lengths) for row in loaded.rows) == 24
    result, heard = t.train(t.run(base, path, tmp_path / "out", given))
    assert result.step == -(-len(loaded.rows) // 2)
    assert result.trained_tokens == _tokens(base, path)
    assert heard.progress[0].total_steps == result.step


def test_evaluation_comes_each_epoch_and_at_the_end(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(10))
    _, heard = t.train(t.run(base, path, tmp_path / "out", t.spec(validation_ratio=0.2, num_train_epochs=2.5)))
    assert [event.step for event in heard.evaluated] == [2, 4, 5]
    assert heard.evaluated[-1].eval_loss < heard.evaluated[0].eval_loss
    assert heard.phases.count(Phase.EVALUATING) == 3


def test_evaluation_is_the_mean_over_the_labels_of_the_validation_rows(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(6))
    held_out = t.write(tmp_path, t.rows(5, words=7), name="held_out.jsonl")
    given = t.spec(max_steps=1, learning_rate=1e-6, eval_steps=1, validation_dataset="ds_2")
    run = t.run(
        base, path, tmp_path / "out", given, validation_path=str(held_out), validation_sha256=t.sha256(held_out)
    )
    _, heard = t.train(run)
    model, renderer = tiny_base.model(), Renderer.load(base)
    total, count = 0.0, 0
    for conversation in formats.parse_file(held_out):
        example = renderer.example(conversation)
        labels = torch.tensor([example.labels])
        labelled = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=torch.tensor([example.input_ids]), labels=labels).loss.detach()) * labelled
        count += labelled
    assert heard.evaluated[0].eval_loss == pytest.approx(total / count, rel=1e-4)


def test_early_stopping_ends_the_training_and_the_best_adapter_is_published(base: Path, tmp_path: Path) -> None:
    """Random answers at a high rate: the training side is learnt by heart, the validation side gets worse."""
    path = t.write(tmp_path, t.rows(10))
    common: dict[str, Any] = {
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "lora_dropout": 0.0,
        "validation_ratio": 0.3,
        "eval_steps": 1,
    }
    given = t.spec(max_steps=60, early_stopping_patience=3, load_best_model_at_end=True, save_steps=1000, **common)
    result, heard = t.train(t.run(base, path, tmp_path / "out", given))
    assert isinstance(result, Finished)
    assert result.reason == "early_stopped"
    losses = [event.eval_loss for event in heard.evaluated]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert result.step == len(losses) == best + 1 + 3
    assert json.loads((Path(result.bundle_dir) / "manifest.json").read_text())["step"] == best + 1
    straight, _ = t.train(t.run(base, path, tmp_path / "to_best", t.spec(max_steps=best + 1, **common)))
    for name, tensor in t.weights(straight).items():
        assert torch.equal(t.weights(result)[name], tensor)


@pytest.mark.parametrize("wish", ["cancel", "pause", "finish"])
def test_a_stop_is_honoured_at_the_next_step_end(base: Path, tmp_path: Path, wish: Any) -> None:
    path = t.write(tmp_path, t.rows(20))
    heard = t.Heard(stop_at=3, wish=wish)
    result, _ = t.train(t.run(base, path, tmp_path / "out", t.spec(max_steps=10)), heard)
    # A cancel leaves within the step that was running; the others let it end.
    assert result.step == (2 if wish == "cancel" else 3)
    saved = [event.step for event in heard.checkpoints]
    if isinstance(result, Stopped):
        assert result.wish == wish
        assert saved == ([3] if wish == "pause" else [])
        assert not (tmp_path / "out" / "adapter").exists()
    else:
        assert result.reason == "finished_early"
        assert Path(result.bundle_dir).is_dir()


@pytest.mark.parametrize("wish", ["cancel", "pause"])
def test_a_stop_before_training_ends_the_attempt_at_once(base: Path, tmp_path: Path, wish: Any) -> None:
    path = t.write(tmp_path, t.rows(20))
    heard = t.Heard()
    heard.wishes.ask(wish)
    result, _ = t.train(t.run(base, path, tmp_path / "out", t.spec()), heard)
    assert isinstance(result, Stopped)
    assert (result.wish, result.step) == (wish, 0)
    assert Phase.TRAINING not in heard.phases


def test_a_cancel_is_never_taken_back() -> None:
    wishes = Wishes()
    wishes.check()
    wishes.ask("finish")
    wishes.check()
    wishes.ask("cancel")
    wishes.ask("pause")
    with pytest.raises(StopAsked, match="cancel"):
        wishes.check()


def _long_rows(tmp_path: Path) -> Path:
    content = t.rows(6)
    content[1]["output"] = "雪" * 100
    content[4]["output"] = "月" * 100
    return t.write(tmp_path, content)


def test_overlong_rows_are_an_error_that_names_their_lines(base: Path, tmp_path: Path) -> None:
    with pytest.raises(OverlongRows, match=r"line\(s\) 2, 5"):
        t.train(t.run(base, _long_rows(tmp_path), tmp_path / "out", t.spec(max_length=200)))


def test_overlong_rows_can_be_dropped_or_cut(base: Path, tmp_path: Path) -> None:
    path = _long_rows(tmp_path)
    for overlong, samples, dropped, truncated in (("drop", 4, 2, 0), ("truncate", 6, 0, 2)):
        given = t.spec(max_length=200, overlong=overlong, max_steps=1)
        result, _ = t.train(t.run(base, path, tmp_path / overlong, given))
        assert isinstance(result, Finished)
        metrics = json.loads((Path(result.bundle_dir) / "manifest.json").read_text())["metrics"]
        assert (metrics["samples"], metrics["dropped"], metrics["truncated"]) == (samples, dropped, truncated)


def test_a_data_set_that_is_dropped_whole_is_the_owners_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NoRowsLeft, match="all 6 are longer than max_length"):
        t.train(t.run(base, t.write(tmp_path, t.rows(6)), tmp_path / "out", t.spec(max_length=8, overlong="drop")))


def test_a_changed_data_set_is_refused(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(6))
    run = t.run(base, path, tmp_path / "out", t.spec(), dataset_sha256="0" * 64)
    with pytest.raises(Damaged, match="not those that were uploaded"):
        t.train(run)


def test_a_base_with_another_chat_format_is_refused(base: Path, tmp_path: Path) -> None:
    run = t.run(base, t.write(tmp_path, t.rows(6)), tmp_path / "out", t.spec())
    with pytest.raises(Damaged, match="chat format"):
        t.train(run.model_copy(update={"template_hash": "0" * 64}))


def test_an_adapter_that_changes_nothing_is_a_failed_job(base: Path, tmp_path: Path) -> None:
    given = t.spec(max_steps=1, warmup_ratio=1.0)
    with pytest.raises(UserError, match="changes no answer") as caught:
        t.train(t.run(base, t.write(tmp_path, t.rows(4)), tmp_path / "out", given))
    assert caught.value.failure.code == "no_effect"
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_loss_that_leaves_the_finite_numbers_fails_at_its_step(base: Path, tmp_path: Path) -> None:
    given = t.spec(
        max_steps=50, learning_rate=1.0, lora_alpha=65536.0, lora_dropout=0.0, lr_scheduler_type="constant", r=64
    )
    heard = t.Heard()
    with pytest.raises(NotFinite) as caught:
        t.train(t.run(base, t.write(tmp_path, t.rows(6)), tmp_path / "out", given), heard)
    failure = caught.value.failure
    assert (failure.code, failure.failure_class, failure.retryable) == ("nan_loss", "nan_loss", False)
    assert caught.value.step == heard.progress[-1].step + 1
    assert f"step {caught.value.step}" in failure.message
    assert "learning_rate" in failure.message
    assert not (tmp_path / "out" / "adapter").exists()


def test_a_pause_in_the_step_that_ends_the_patience_lets_the_training_end(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(10))
    given = t.spec(
        max_steps=60,
        early_stopping_patience=2,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        lora_dropout=0.0,
        validation_ratio=0.3,
        eval_steps=1,
        save_steps=1000,
    )
    straight, _ = t.train(t.run(base, path, tmp_path / "straight", given))
    _, sparing = t.train(t.run(base, path, tmp_path / "sparing", given.model_copy(update={"logging_steps": 50})))
    assert [event.step for event in sparing.progress] == [1, straight.step]
    heard = t.Heard(stop_at=straight.step)
    paused, _ = t.train(t.run(base, path, tmp_path / "paused", given), heard)
    assert isinstance(paused, Finished)
    assert (paused.reason, paused.step) == ("early_stopped", straight.step)
    assert not heard.checkpoints
