"""A child process that is kept alive: started with its own log, restarted with growing pauses, stopped in order.

Knows no services; cli/up.py says which there are. Everything runs on the main thread, since a child's
parent-death signal fires when the thread that spawned it ends.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from cli.places import ROOT
from core import tether

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
CRASHES: Final = 5
CRASH_WINDOW_S: Final = 60.0
LOG_BYTES: Final = 16 * 2**20


class KeepsCrashing(Exception):
    """A process ended five times within a minute; starting it again would not help."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(f"the {name} ended {CRASHES} times within {CRASH_WINDOW_S:.0f} s; its log is {log}")


@dataclass(slots=True, kw_only=True)
class Process:
    """One kept process.

    Args:
        name: As in service.json.
        command: Arguments, the program first.
        environment: Added to ours.
        log: File that takes stdout and stderr; moved aside to `….1` when it is over 16 MiB at a start.
        stop_s: How long it may take to end after SIGTERM before it is killed.
        oom_score_adj: Above 0, the kernel takes this process before others when memory runs out.
    """

    name: str
    command: list[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_s: float = 30.0
    oom_score_adj: int = 0
    _child: subprocess.Popen[bytes] | None = None
    _pause_s: float = FIRST_PAUSE_S
    _start_at: float = 0.0
    _crashes: deque[float] = field(default_factory=lambda: deque(maxlen=CRASHES))

    @property
    def pid(self) -> int | None:
        """The running child's process id."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def start(self) -> None:
        """Start the child; it dies with us, however we die."""
        with self._open_log() as log:
            self._child = subprocess.Popen(
                tether.command(self.command, oom_score_adj=self.oom_score_adj),
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C in the terminal reaches the supervisor alone, which stops all in order.
                start_new_session=True,
            )

    def tend(self) -> bool:
        """Restart the child if it ended and its pause is over; say whether it was started now.

        Raises:
            KeepsCrashing: It ended too often.
        """
        now = time.monotonic()
        if self._child is not None:
            if self._child.poll() is None:
                if now - self._start_at > CRASH_WINDOW_S:
                    self._pause_s = FIRST_PAUSE_S
                return False
            self._child = None
            self._crashes.append(now)
            if len(self._crashes) == CRASHES and now - self._crashes[0] < CRASH_WINDOW_S:
                raise KeepsCrashing(self.name, self.log)
            self._start_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if now < self._start_at:
            return False
        self._start_at = now
        self.start()
        return True

    def stop(self) -> None:
        """Ask the child to end, wait, and kill its whole session if it does not."""
        if self._child is None:
            return
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(self.stop_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)
                self._child.wait()
        self._child = None

    def _open_log(self) -> IO[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(self.log.suffix + ".1"))
        return self.log.open("ab")


def python(*arguments: str) -> list[str]:
    """A command that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", *arguments]
