"""Children are kept alive, given up on when they keep crashing, and die with their supervisor."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import processes
from cli.places import ROOT, secret_file
from cli.processes import KeepsCrashing, Process


def _process(tmp_path: Path, script: str, **options: float) -> Process:
    return Process(name="child", command=[sys.executable, "-c", script], log=tmp_path / "child.log", **options)  # type: ignore[arg-type]


def _until(is_so: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    child = _process(tmp_path, "import time; time.sleep(60)")
    child.tend()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    _until(child.tend)
    assert child.pid not in (None, first)
    child.stop()
    assert child.pid is None


def test_a_child_that_keeps_crashing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LONGEST_PAUSE_S", 0.01)
    child = _process(tmp_path, "raise SystemExit('no')")
    child._pause_s = 0.01
    with pytest.raises(KeepsCrashing, match="child ended 5 times"):
        _until(lambda: child.tend() and False, seconds=20)
    assert "no" in (tmp_path / "child.log").read_text()


def test_a_child_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(ready)!r}, 'w'); time.sleep(60)"
    child = _process(tmp_path, script, stop_s=0.2)
    child.tend()
    _until(ready.exists)
    pid = child.pid
    assert pid is not None
    child.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from cli.processes import Process\n"
        f"p = Process(name='x', command=[sys.executable, '-c', 'import time; time.sleep(60)'], log=Path({str(tmp_path / 'log')!r}))\n"
        "p.tend(); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    # The tether is made before the program starts; wait until the program is there.
    _until(
        lambda: (
            b"time.sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and b"tether" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    )
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    secret = secret_file(path)
    assert secret_file(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["key"]
