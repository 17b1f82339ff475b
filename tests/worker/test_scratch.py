"""Folders of attempts, and who may remove them."""

import os
import subprocess
import sys
from pathlib import Path

from worker import scratch

HOLDER = """
import sys, time
from pathlib import Path
from worker import scratch
with scratch.folder(Path(sys.argv[1]), "job-1") as path:
    (path / "kept").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_empty_private_and_gone_afterwards(tmp_path: Path) -> None:
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / "torn").write_text("x")
    with scratch.folder(tmp_path, "job-1") as path:
        assert [entry.name for entry in path.iterdir()] == [scratch.LOCK]
        assert path.stat().st_mode & 0o077 == 0
    assert not path.exists()


def test_a_sweep_spares_what_a_process_holds_and_takes_what_a_killed_one_left(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        holder.stdout.readline()
        os.utime(tmp_path / "job-1", (0, 0))
        assert scratch.sweep(tmp_path, older_than_s=60) == []
        holder.kill()
        holder.wait()
    os.utime(tmp_path / "job-1", (0, 0))
    assert scratch.sweep(tmp_path, older_than_s=60) == ["job-1"]
    assert not (tmp_path / "job-1").exists()


def test_a_sweep_spares_what_is_young(tmp_path: Path) -> None:
    (tmp_path / "job-1").mkdir()
    assert scratch.sweep(tmp_path, older_than_s=60) == []
    assert scratch.sweep(tmp_path / "absent", older_than_s=60) == []
