"""Commands that need no running service: import, doctor, demo's recipe."""

import json
import shutil
from pathlib import Path

import pytest

from cli import main
from cli.places import ROOT
from cli.screen import screen
from core.domain.training import TrainSpec


@pytest.fixture(autouse=True)
def _fresh_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "console"):
        monkeypatch.setattr(screen, name, getattr(screen, name))
    monkeypatch.delenv("BLUELORA_URL", raising=False)


def test_an_import_registers_the_base_and_the_same_one_again_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", str(ROOT / "assets" / "bluelm-nano"), "--name", "nano", "--data-dir", str(tmp_path), "--json"]
    results = []
    for _ in range(2):
        assert main.main(command) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    first, second = results
    assert first["id"] == second["id"]
    assert (Path(first["path"]) / "model.safetensors").exists()
    assert first["name"] == "nano"


def test_a_folder_that_is_no_checkpoint_is_refused_and_leaves_no_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    command = ["import", str(tmp_path / "model"), "--name", "x", "--data-dir", str(tmp_path / "data"), "--json"]
    assert main.main(command) == 3
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "config.json" in answer["message"]
    assert not list((tmp_path / "data" / "cache" / "imports").glob("x*/"))


def test_a_broken_shard_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shutil.copytree(ROOT / "assets" / "bluelm-nano", tmp_path / "broken")
    shard = next(source.glob("*-00001-of-*.bin"))
    shard.write_bytes(shard.read_bytes()[:1000])
    assert main.main(["import", str(source), "--name", "x", "--data-dir", str(tmp_path / "data")]) == 3
    assert shard.name in capsys.readouterr().err


def test_doctor_says_what_is_there_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["doctor", "--data-dir", str(tmp_path), "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert {"python", "torch", "broker", "gpu", "memory", "disk", "data directory", "port"} <= checks.keys()
    assert all(check["mend"] for check in checks.values() if check["state"] == "missing")


def test_every_spec_field_is_named_in_the_help_of_jobs_create(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["jobs", "create", "--help"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    for field in TrainSpec.model_fields:
        if field not in ("metadata", "spec_version"):
            assert f"--{field.replace('_', '-')}" in shown
