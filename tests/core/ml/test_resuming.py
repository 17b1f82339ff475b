"""Imports that are killed: nothing half-named is left, and the next one goes on and gives the same bytes."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from core.ml import records
from core.ml.convert import convert
from core.ml.journals import FILE, Journal
from tests.support import bluelm

SHARD_BYTES = 20_000
"""A tiny BlueLM in a dozen files."""

DYING = """
import os, sys
from pathlib import Path
from core.ml.convert import convert

def progress(done: int, total: int) -> None:
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), 9)

convert(Path(sys.argv[1]), Path(sys.argv[2]), name="x", progress=progress, max_shard_bytes=int(sys.argv[4]))
"""


def watched(source: Path, target: Path) -> list[int]:
    """Import and list the bytes done at each report."""
    seen: list[int] = []
    convert(source, target, name="x", progress=lambda done, total: seen.append(done), max_shard_bytes=SHARD_BYTES)
    return seen


def killed(source: Path, target: Path, *, at: int) -> None:
    command = [sys.executable, "-c", DYING, str(source), str(target), str(at), str(SHARD_BYTES)]
    died = subprocess.run(command, check=False, timeout=120, capture_output=True)
    assert died.returncode == -9, died.stderr


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folders(tmp_path: Path, kind: str) -> Path:
    source = bluelm.write(tmp_path / "source")
    if kind == "bluelm":
        return source
    return convert(source, tmp_path / "llama", name="x", progress=lambda *_: None, max_shard_bytes=SHARD_BYTES).path


@pytest.mark.parametrize(("kind", "share"), [("bluelm", 0.7), ("bluelm", 0.8), ("bluelm", 0.98), ("llama", 0.7)])
def test_a_killed_import_leaves_nothing_named_and_the_next_one_is_the_same_to_the_byte(
    tmp_path: Path, kind: str, share: float
) -> None:
    source, target = folders(tmp_path, kind), tmp_path / "bases" / "x"
    seen = watched(source, tmp_path / "undisturbed")
    killed(source, target, at=int(seen[-1] * share))
    assert [path.name for path in target.parent.iterdir()] == [".x.importing"]
    stage = target.parent / ".x.importing"
    finished = [file["name"] for file in json.loads((stage / FILE).read_text())["finished"]]
    before = {name: (stage / name).stat().st_ino for name in finished}
    assert before
    seen = watched(source, target)
    assert seen == sorted(seen)
    assert [path.name for path in target.parent.iterdir()] == ["x"]
    assert content(target) == content(tmp_path / "undisturbed")
    # The finished files were kept, not written again.
    assert {name: (target / name).stat().st_ino for name in finished} == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["bluelm", "llama"])
def test_an_import_may_be_killed_at_every_report_and_in_a_row(tmp_path: Path, kind: str) -> None:
    source = folders(tmp_path, kind)
    seen = watched(source, tmp_path / "undisturbed")
    clean = content(tmp_path / "undisturbed")
    for at in sorted(set(seen)):
        target = tmp_path / f"at-{at}" / "x"
        killed(source, target, at=at)
        named = {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()
        assert named <= {".x.importing"} or (at == seen[-1] and named == {"x"})
        watched(source, target)
        assert content(target) == clean
    # And one that dies again and again, each time a little later.
    target = tmp_path / "often" / "x"
    for at in sorted(set(seen))[:-1]:
        killed(source, target, at=at)
    watched(source, target)
    assert content(target) == clean


def test_another_source_starts_anew(tmp_path: Path) -> None:
    source, other = bluelm.write(tmp_path / "source"), bluelm.write(tmp_path / "other", seed=1)
    target = tmp_path / "bases" / "x"
    seen = watched(other, tmp_path / "undisturbed")
    killed(source, target, at=int(seen[-1] * 0.8))
    watched(other, target)
    assert content(target) == content(tmp_path / "undisturbed")


def test_a_finished_file_that_rotted_is_written_again(tmp_path: Path) -> None:
    source, target = bluelm.write(tmp_path / "source"), tmp_path / "bases" / "x"
    seen = watched(source, tmp_path / "undisturbed")
    killed(source, target, at=int(seen[-1] * 0.9))
    [first] = target.parent.glob(".x.importing/model-00001-of-*")
    bytes_ = bytearray(first.read_bytes())
    bytes_[-7] ^= 1
    first.write_bytes(bytes_)
    watched(source, target)
    assert content(target) == content(tmp_path / "undisturbed")


@pytest.mark.parametrize("seed", range(20))
def test_a_journal_that_is_not_whole_keeps_nothing_and_trusts_nobody(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    journal = Journal.open(tmp_path, made_from={"sources": []})
    (tmp_path / "a").write_bytes(b"whole")
    journal.add(records.hashed(tmp_path / "a"))
    text = bytearray((tmp_path / FILE).read_bytes())
    for _ in range(rng.randint(1, 4)):
        text[rng.randrange(len(text))] = rng.randrange(256)
    (tmp_path / FILE).write_bytes(text[: rng.randint(0, len(text))] if seed % 2 else text)
    (tmp_path / "stray").mkdir()
    kept = Journal.open(tmp_path, made_from={"sources": []})
    if (file := kept.finished("a")) is not None:
        assert file == records.hashed(tmp_path / "a")
    assert not (tmp_path / "stray").exists()
    kept.close()
    assert not (tmp_path / FILE).exists()


def test_a_journal_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    (tmp_path / "outside").write_bytes(b"x")
    (stage / "link").symlink_to(tmp_path / "outside")
    outside = records.hashed(tmp_path / "outside")
    for name in ("../outside", "link"):
        listed = {"name": name, "sha256": outside.sha256, "bytes": 1}
        (stage / FILE).write_text(json.dumps({"made_from": {}, "finished": [listed]}))
        assert Journal.open(stage, made_from={}).finished(name) is None
    assert (tmp_path / "outside").exists()


def test_an_interrupt_keeps_what_is_finished_and_an_error_does_not(tmp_path: Path) -> None:
    source, target = bluelm.write(tmp_path / "source"), tmp_path / "bases" / "x"

    def stops(with_: BaseException) -> list[str]:
        def progress(done: int, total: int) -> None:
            if done > total * 0.8:
                raise with_

        with pytest.raises(type(with_)):
            convert(source, target, name="x", progress=progress, max_shard_bytes=SHARD_BYTES)
        return [path.name for path in target.parent.iterdir()]

    assert stops(KeyboardInterrupt()) == [".x.importing"]
    assert stops(RuntimeError()) == []
