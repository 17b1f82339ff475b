"""Programs that die with whoever started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import tether
from tests.support.worker_processes import gone, wait_until

# A parent that starts a tethered child and prints its id; the child may replace itself from a thread first.
PARENT = """
import subprocess, sys, time
from core import tether
child = subprocess.Popen(tether.command([sys.executable, "-c", sys.argv[1]]))
print(child.pid, flush=True)
time.sleep(60)
"""
SLEEPER = "import time; print('asleep', flush=True); time.sleep(60)"
REPLACED = f"""
import os, sys, threading
from core import tether
parent = tether.parent_tied_to()
assert parent == os.getppid()
again = tether.command([sys.executable, "-c", {SLEEPER!r}], parent_pid=parent)
threading.Thread(target=lambda: os.execv(sys.executable, again)).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("program", [SLEEPER, REPLACED], ids=["plain", "replaced from a thread"])
def test_a_tethered_program_dies_with_its_parent(program: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "asleep\n"
        assert not gone(child)
        parent.kill()
        parent.wait()
        assert wait_until(lambda: gone(child), 5) < 1.0


def test_a_program_whose_parent_is_gone_already_never_starts(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    other = subprocess.Popen(["sleep", "0"])
    other.wait()
    command = tether.command([sys.executable, "-c", f"open({str(mark)!r}, 'w')"], parent_pid=other.pid)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert not mark.exists()


def test_whoever_is_not_tethered_says_so() -> None:
    assert tether.parent_tied_to() is None


def test_exit_code_and_signals_are_the_programs_own() -> None:
    command = tether.command([sys.executable, "-c", "raise SystemExit(7)"])
    assert subprocess.run(command, check=False).returncode == 7
    process = subprocess.Popen(tether.command([sys.executable, "-c", SLEEPER]), stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
