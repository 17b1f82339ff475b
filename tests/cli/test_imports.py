"""`bluelora import` as a user runs it: one at a time, again, from a hub, killed."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import imports
from cli.places import ROOT, DataDir
from cli.workshops import Workshop
from tests.support import bluelm
from tests.support.hubs import Repository, serving


def command(source: Path | str, data: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "cli", "import", str(source), "--name", "x", "--data-dir", str(data), *options]


def run(source: Path | str, data: Path, *options: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        command(source, data, "--json", *options),
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def left(data: Path) -> set[str]:
    return {path.name for path in (data / "cache" / "imports").iterdir()}


def test_an_import_from_a_hub_leaves_no_download_and_again_is_a_no_op(tmp_path: Path) -> None:
    hub = "modelscope"
    repository = Repository(id="vivo-ai/BlueLM-7B-Chat", folder=bluelm.write(tmp_path / "repository"))
    data = tmp_path / "data"
    with serving(repository) as endpoint:
        where = {"HF_ENDPOINT": endpoint, "MODELSCOPE_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
        first = run(repository.id, data, "--hub", hub, **where)
        asked = len(repository.asked)
        again = run(repository.id, data, "--hub", hub, **where)
    assert not first["reused"]
    assert again["reused"]
    assert (again["id"], again["path"], again["files"]) == (first["id"], first["path"], first["files"])
    assert len(repository.asked) == asked
    assert first["max_ulp"] <= 1
    record = json.loads((Path(first["path"]) / "import.json").read_text())
    assert (record["max_ulp"], record["origin"]["hub"]) == (first["max_ulp"], hub)
    assert left(data) == {".x.lock", ".downloads"}
    assert not list((data / "cache" / "imports" / ".downloads").iterdir())


def test_people_are_told_what_was_checked_that_nothing_is_to_do_and_that_a_name_is_taken(tmp_path: Path) -> None:
    source, other = bluelm.write(tmp_path / "source"), bluelm.write(tmp_path / "other", seed=1)
    first, again, conflict = (
        subprocess.run(command(folder, tmp_path / "data"), cwd=ROOT, capture_output=True, text=True, check=False)
        for folder in (source, source, other)
    )
    assert "Largest difference of a folded embedding row" in first.stdout
    assert "units in the last place (bfloat16)" in first.stdout
    assert "Checked: every folded row" in first.stdout
    assert "Nothing to do" not in first.stdout
    assert "Nothing to do" in again.stdout
    assert conflict.returncode == 3
    assert "imported from other files" in conflict.stderr
    assert left(tmp_path / "data") <= {".x.lock", ".x.log"}


@pytest.mark.slow
def test_a_killed_import_is_finished_by_the_next(tmp_path: Path) -> None:
    source, data = (
        bluelm.write(tmp_path / "source", shape=bluelm.Shape(hidden=512, heads=8, layers=8)),
        tmp_path / "data",
    )
    process = subprocess.Popen(command(source, data), cwd=ROOT, stdout=subprocess.DEVNULL)
    stage = data / "cache" / "imports" / ".x.importing"
    while process.poll() is None and not stage.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (data / "cache" / "imports" / "x").exists()
    said = run(source, data)
    assert Path(said["path"]).is_dir()
    assert left(data) == {".x.lock"}


def test_imports_of_one_name_wait_for_each_other(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    imports.migrate(data)
    source = bluelm.write(tmp_path / "source")
    done: list[Any] = []
    console = Console(file=io.StringIO())
    with Workshop(data.bases, "x").alone(console):
        other = threading.Thread(target=lambda: done.append(run(source, data.path)))
        other.start()
        other.join(4)
        assert other.is_alive()
        assert done == []
    other.join()
    assert not done[0]["reused"]
