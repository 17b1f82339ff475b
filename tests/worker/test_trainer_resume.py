"""A run that stops and goes on ends byte for byte where the straight run ends."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.storage import bundles
from tests.support import training as t
from worker.messages import Finished, Stopped
from worker.trainer import checkpoints
from worker.trainer.attempt import HeldBase, run_attempt
from worker.trainer.checkpoints import Shelf
from worker.trainer.failures import Damaged, DiskFull

FIELDS: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 3.0}


def _adapter(result: Finished | Stopped) -> bytes:
    assert isinstance(result, Finished)
    return (Path(result.bundle_dir) / "adapter_model.safetensors").read_bytes()


# 11 rows in steps of 4 are 3 steps an epoch: within an epoch, at its end, and after its partial step.
@pytest.mark.parametrize("stop_at", [2, 3, 7])
@pytest.mark.parametrize("packing", ["exact", "packed"])
def test_a_paused_run_resumes_to_the_same_bytes(base: Path, tmp_path: Path, packing: str, stop_at: int) -> None:
    path = t.write(tmp_path, t.rows(11, words=9 if packing == "packed" else 3))
    fields = FIELDS | {"packing": packing, "pack_length": 256, "lora_dropout": 0.1}
    if packing == "packed":
        fields |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "num_train_epochs": 5.0}
    given = t.spec(**fields, validation_ratio=0.2, load_best_model_at_end=True, early_stopping_patience=50)
    straight, whole = t.train(t.run(base, path, tmp_path / "straight", given))
    assert straight.step > stop_at

    paused, before = t.train(t.run(base, path, tmp_path / "first", given), t.Heard(stop_at=stop_at))
    assert isinstance(paused, Stopped)
    assert (paused.wish, paused.step) == ("pause", stop_at)
    checkpoint = before.checkpoints[-1]
    assert checkpoint.step == stop_at

    resumed, after = t.train(t.run(base, path, tmp_path / "second", given, attempt=2, checkpoint_dir=checkpoint.path))
    assert _adapter(resumed) == _adapter(straight)
    assert before.losses + after.losses == whole.losses
    assert before.evaluated + after.evaluated == whole.evaluated
    assert resumed.trained_tokens == straight.trained_tokens
    assert [event.trained_tokens for event in before.progress + after.progress] == [
        event.trained_tokens for event in whole.progress
    ]


def test_checkpoints_come_every_save_steps_and_are_usable_adapters(base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(16))
    given = t.spec(max_steps=7, save_steps=3)
    _, heard = t.train(t.run(base, path, tmp_path / "out", given, attempt=4))
    assert [event.step for event in heard.checkpoints] == [3, 6]
    for event in heard.checkpoints:
        folder = Path(event.path)
        assert folder.name == f"{event.step}-4"
        bundles.verify(folder, event.manifest_sha256)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert (manifest["job"], manifest["attempt"], manifest["step"]) == ("job_1", 4, event.step)
        assert manifest["spec"]["max_steps"] == 7
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-base"
        assert not list(folder.glob("*training_args*"))
        assert str(tmp_path) not in "".join(file.read_text() for file in folder.glob("*.json"))
    assert not (tmp_path / "out" / "scratch").exists()


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    path = t.write(folder, t.rows(8))
    _, heard = t.train(t.run(base, path, folder / "out", t.spec(max_steps=4, save_steps=2)))
    return Path(heard.checkpoints[0].path)


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    t.write(tmp_path, t.rows(8))
    return Path(shutil.copytree(made, tmp_path / "checkpoint"))


NAMES = [*checkpoints.NEEDED, "manifest.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "absent"])
def test_a_damaged_checkpoint_is_refused(base: Path, tmp_path: Path, checkpoint: Path, name: str, damage: str) -> None:
    file = checkpoint / name
    content = file.read_bytes()
    middle = len(content) // 2
    match damage:
        case "flip":
            file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "truncate":
            file.write_bytes(content[:middle])
        case "empty":
            file.write_bytes(b"")
        case _:
            file.unlink()
    if name == "manifest.json" and damage == "flip":
        # The worker holds the manifest against its row; here a changed fact must not pass either.
        file.write_bytes(content.replace(b'"job_1"', b'"job_2"'))
    run = t.run(base, tmp_path / "data.jsonl", tmp_path / "out", t.spec(max_steps=4, save_steps=2))
    with pytest.raises(Damaged) as caught:
        t.train(run.model_copy(update={"checkpoint_dir": str(checkpoint)}))
    assert caught.value.failure.failure_class == "integrity"
    assert str(tmp_path) not in caught.value.failure.message


def test_a_checkpoint_of_another_spec_is_refused(base: Path, tmp_path: Path, checkpoint: Path) -> None:
    run = t.run(base, tmp_path / "data.jsonl", tmp_path / "out", t.spec(max_steps=5, save_steps=2))
    with pytest.raises(Damaged, match="another spec"):
        t.train(run.model_copy(update={"checkpoint_dir": str(checkpoint)}))


def test_a_checkpoint_of_a_version_that_knew_fewer_fields_is_resumed_from(
    base: Path, tmp_path: Path, checkpoint: Path
) -> None:
    manifest = checkpoint / "manifest.json"
    told = json.loads(manifest.read_text())
    assert told["spec"].pop("use_rslora") is False
    manifest.write_text(json.dumps(told))
    run = t.run(base, tmp_path / "data.jsonl", tmp_path / "out", t.spec(max_steps=4, save_steps=2))
    result, heard = t.train(run.model_copy(update={"checkpoint_dir": str(checkpoint)}))
    assert result.step == 4
    assert heard.progress[0].step == 3


def test_a_checkpoint_without_its_optimizer_is_refused_though_it_is_sealed(
    base: Path, tmp_path: Path, checkpoint: Path
) -> None:
    facts = json.loads((checkpoint / "manifest.json").read_text())
    del facts["files"]
    shutil.copytree(checkpoint, tmp_path / "copy")
    (tmp_path / "copy" / "optimizer.pt").unlink()
    (tmp_path / "copy" / "manifest.json").unlink()
    bundles.seal(tmp_path / "copy", facts)
    run = t.run(base, tmp_path / "data.jsonl", tmp_path / "out", t.spec(max_steps=4, save_steps=2))
    with pytest.raises(Damaged, match=r"lacks optimizer\.pt"):
        t.train(run.model_copy(update={"checkpoint_dir": str(tmp_path / "copy")}))


def test_a_save_without_room_is_refused_before_it_begins(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, attempt=1, facts={})
    shelf.check_room(1)
    with pytest.raises(DiskFull):
        shelf.check_room(shutil.disk_usage(tmp_path).total)


def test_a_resumed_run_that_is_asked_to_finish_publishes(base: Path, tmp_path: Path, checkpoint: Path) -> None:
    run = t.run(base, tmp_path / "data.jsonl", tmp_path / "out", t.spec(max_steps=4, save_steps=2))
    heard = t.Heard()
    heard.wishes.ask("finish")
    result = run_attempt(
        run.model_copy(update={"checkpoint_dir": str(checkpoint)}),
        held=HeldBase(),
        wishes=heard.wishes,
        tell=heard.tell,
    )
    assert isinstance(result, Finished)
    assert (result.reason, result.step) == ("finished_early", 3)
