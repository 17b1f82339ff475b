"""Processes that ours have started, as the kernel shows them."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def inspectors_of(pid: int) -> list[int]:
    """The inspecting processes that a process has started."""
    return children_of(pid, "core.services.inspection")


def children_of(pid: int, module: str) -> list[int]:
    """The processes running a module that a process has started."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, file.read_text().split()):
                if module.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def is_running(pid: int) -> bool:
    """Whether a process has not ended; an orphan that has may stay as a zombie where nobody reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait(until: Callable[[], bool], *, pause_s: float = 0.05) -> None:
    """Wait until something is so, for a minute at most."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(pause_s)
