"""Repositories of both hubs, listed and downloaded from a server that answers as they do."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.domain.checkpoints import (
    CheckpointNotFound,
    DamagedCheckpoint,
    HubUnavailable,
    LongContextCheckpoint,
    NoRoomForBase,
    UnsupportedCheckpoint,
)
from core.ml import downloads, hubs, records, staging
from core.ml.importing import DOWNLOADS, Order, run
from tests.support import bluelm
from tests.support.hubs import COMMIT, Repository, serving

ID = "vivo-ai/BlueLM-7B-Chat"
FIRST, SECOND = "pytorch_model-00001-of-00003.bin", "pytorch_model-00002-of-00003.bin"
HUBS: tuple[hubs.Hub, ...] = ("hf", "modelscope")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    folder = bluelm.write(tmp_path / "repository")
    for name in ("README.md", "training_args.bin", "demo/config.json", "cli_demo.py", "optimizer.pt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not wanted")
    made = Repository(id=ID, folder=folder)
    with serving(made) as endpoint:
        for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(variable, endpoint)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(downloads, "PAUSE_S", 0.001)
        yield made


def order(tmp_path: Path, hub: hubs.Hub, **changes: Any) -> Order:
    given: dict[str, Any] = {"source": ID, "target": tmp_path / "bases" / "x", "name": "x", "hub": hub}
    return Order(**(given | {"revision": None, "registered": None, "copies": 1} | changes))


def imported(tmp_path: Path, hub: hubs.Hub, **changes: Any) -> tuple[records.Imported, list[tuple[str, int, int]]]:
    seen: list[tuple[str, int, int]] = []
    found = run(order(tmp_path, hub, **changes), report=lambda *line: seen.append(line))
    return found, seen


@pytest.mark.parametrize("hub", HUBS)
def test_a_repository_is_downloaded_and_imported_like_its_folder(
    tmp_path: Path, repository: Repository, hub: hubs.Hub
) -> None:
    base, seen = imported(tmp_path, hub)
    folder, _ = imported(tmp_path, hub, source=str(repository.folder), target=tmp_path / "folder")
    assert base.record.fingerprint == folder.record.fingerprint
    assert base.record.origin is not None
    assert (base.record.origin.hub, base.record.origin.id) == (hub, ID)
    assert base.record.origin.revision == (COMMIT if hub == "hf" else "master")
    asked = {name for name, _ in repository.asked}
    assert {FIRST, SECOND, "config.json", "tokenizer.model", "modeling_bluelm.py"} <= asked
    assert not asked & {"README.md", "training_args.bin", "demo/config.json", "cli_demo.py", "optimizer.pt"}
    for phase in ("downloading", "importing"):
        bytes_done = [(done, total) for its, done, total in seen if its == phase]
        assert bytes_done == sorted(bytes_done)
        assert bytes_done[-1][0] == bytes_done[-1][1] > 0


@pytest.mark.parametrize("hub", HUBS)
def test_a_cut_connection_goes_on_where_it_broke_off(tmp_path: Path, repository: Repository, hub: hubs.Hub) -> None:
    repository.cut_after = {FIRST: [1000, 500, 0], "config.json": [10]}
    imported(tmp_path, hub)
    assert [asked for name, asked in repository.asked if name == FIRST] == [
        None,
        "bytes=1000-",
        "bytes=1500-",
        "bytes=1500-",
    ]


@pytest.mark.parametrize("hub", HUBS)
def test_a_killed_download_is_continued_by_the_next_import(
    tmp_path: Path, repository: Repository, hub: hubs.Hub
) -> None:
    repository.cut_after = {SECOND: [700] + [0] * downloads.ATTEMPTS}
    with pytest.raises(HubUnavailable, match="import again to go on"):
        imported(tmp_path, hub)
    assert not (tmp_path / "bases" / "x").exists()
    repository.asked.clear()
    repository.cut_after = {}
    imported(tmp_path, hub)
    assert (SECOND, "bytes=700-") in repository.asked
    assert FIRST not in {name for name, _ in repository.asked}


def test_a_server_without_ranges_and_a_busy_one_are_asked_again(tmp_path: Path, repository: Repository) -> None:
    repository.honours_ranges = False
    repository.cut_after = {FIRST: [1000]}
    repository.statuses = {SECOND: [503, 429, 500]}
    base, _ = imported(tmp_path, "hf")
    assert base.record.checks


@pytest.mark.parametrize("hub", HUBS)
@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_other_bytes_than_the_hub_lists_are_refused(
    tmp_path: Path, repository: Repository, hub: hubs.Hub, name: str
) -> None:
    repository.listed_hash = {name: hashlib.sha256(b"other").hexdigest()}
    with pytest.raises(DamagedCheckpoint, match="another hash"):
        imported(tmp_path, hub)
    assert not (tmp_path / "bases" / "x").exists()
    assert not list((tmp_path / "bases" / DOWNLOADS).rglob(f"{name}*"))


@pytest.mark.parametrize("hub", HUBS)
def test_a_repository_that_is_not_there_is_told_as_such(tmp_path: Path, repository: Repository, hub: hubs.Hub) -> None:
    with pytest.raises(CheckpointNotFound, match="no such public repository"):
        imported(tmp_path, hub, source="vivo-ai/Nothing")
    with pytest.raises(CheckpointNotFound, match="revision"):
        imported(tmp_path, hub, revision="nowhere")
    repository.missing = {FIRST}
    with pytest.raises(CheckpointNotFound, match=FIRST):
        imported(tmp_path, hub)
    for path in repository.folder.glob("*.bin"):
        path.unlink()
    with pytest.raises(CheckpointNotFound, match="no weights"):
        imported(tmp_path, hub)


@pytest.mark.parametrize("hub", HUBS)
def test_a_32k_id_is_refused_before_the_hub_is_asked(tmp_path: Path, repository: Repository, hub: hubs.Hub) -> None:
    with pytest.raises(LongContextCheckpoint, match="32K"):
        imported(tmp_path, hub, source="vivo-ai/BlueLM-7B-Chat-32K")
    assert repository.asked == []


def test_what_the_config_shows_is_refused_before_the_weights_are_downloaded(
    tmp_path: Path, repository: Repository
) -> None:
    bluelm.edit(repository.folder / "config.json", rope_scaling={"type": "ntkmixed"})
    with pytest.raises(LongContextCheckpoint):
        imported(tmp_path, "hf")
    bluelm.edit(repository.folder / "config.json", rope_scaling=None, model_type="qwen2")
    with pytest.raises(UnsupportedCheckpoint):
        imported(tmp_path, "hf")
    assert not [name for name, _ in repository.asked if name.endswith(".bin")]


@pytest.mark.parametrize("hub", HUBS)
def test_the_same_repository_again_downloads_nothing(tmp_path: Path, repository: Repository, hub: hubs.Hub) -> None:
    known, _ = imported(tmp_path, hub)
    repository.asked.clear()
    again, _ = imported(tmp_path, hub, registered=known.path, target=tmp_path / "other" / "x")
    assert again.reused
    assert again.record == known.record
    assert repository.asked == []
    assert not (tmp_path / "other").exists()


def test_a_disk_without_room_for_download_and_base_is_told_before_a_byte_is_asked_for(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(path.stat().st_size for path in repository.folder.glob("pytorch*.bin"))
    monkeypatch.setattr(staging, "free_bytes", lambda folder: staging.SPARE_BYTES + weights + 1000)
    with pytest.raises(NoRoomForBase, match="GiB free"):
        imported(tmp_path, "hf")
    assert repository.asked == []


def test_weights_that_are_there_twice_are_downloaded_once(tmp_path: Path, repository: Repository) -> None:
    (repository.folder / "model.safetensors").write_bytes(b"x")
    with downloads.client() as http:
        found = hubs.listing(http, hub="hf", repository=ID, revision=None)
    assert [file.name for file in found.files if hubs.WEIGHTS.fullmatch(file.name)] == ["model.safetensors"]


@pytest.mark.parametrize("hub", HUBS)
def test_a_hub_that_does_not_answer_is_told_as_such(
    tmp_path: Path, hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(HubUnavailable, match="can't be reached"):
        imported(tmp_path, hub)


@pytest.mark.parametrize("hub", HUBS)
def test_the_command_downloads_from_the_hub_that_it_is_given(
    tmp_path: Path, repository: Repository, hub: hubs.Hub
) -> None:
    command = [sys.executable, "-m", "core.ml.importing", ID, str(tmp_path / "bases" / "x"), "--name", "x"]
    done = subprocess.run(
        [*command, "--hub", hub], capture_output=True, text=True, check=True, timeout=120, env=os.environ
    )
    assert '"phase": "downloading"' in done.stdout
    assert (tmp_path / "bases" / "x" / "import.json").exists()
