"""Processes that service rows measure: started on free ports, waited for, looked at through /proc, stopped."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 60.0
RESET_PEAK: Final = "5"
"""What /proc/PID/clear_refs takes to make the highest memory so far the present one (man 5 proc)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A process that answers at `url`; `start_s` is how long it took from its start to its first answer."""

    url: str
    pid: int
    start_s: float


@contextlib.contextmanager
def serving(
    *command: str, port: int, alive: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """Run `python -m COMMAND` until the block ends; it must answer GET `alive` with 200 on `port`."""
    began, url = time.perf_counter(), f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=_environment() | dict(environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while not _answers(url + alive):
            if process.poll() is not None or time.perf_counter() - began > START_S:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield Serving(url=url, pid=process.pid, start_s=time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(30)


def call(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run `python -m COMMAND` to its end.

    Raises:
        RuntimeError: It failed; says what it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=_environment() | dict(environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def resident_bytes(pid: int) -> int:
    """Read how much memory a process holds now."""
    return _kibibytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Read the most memory that a process has held since its start, or since `forget_peak`."""
    return _kibibytes(pid, "VmHWM")


def processor_seconds(pid: int) -> float:
    """Read how long a process's first thread has been on a processor (Linux, sched-stats.rst: nanoseconds come first)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def forget_peak(pid: int) -> None:
    """Begin to look for the highest memory anew."""
    Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)


def children_peak_bytes(pid: int, *, module: str) -> int:
    """Read the most memory that a child process which runs `python -m MODULE` has held; 0 while there is none."""
    peak = 0
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # A child that has not become its program yet still shows the memory of its parent.
                if module.encode() in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0"):
                    peak = max(peak, peak_bytes(int(child)))
    return peak


def _kibibytes(pid: int, name: str) -> int:
    """Read a line of /proc/PID/status in bytes; 0 for a process that is ending."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _environment() -> dict[str, str]:
    """Ours, without settings of a service that may be configured around us."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BLUELORA_")}
