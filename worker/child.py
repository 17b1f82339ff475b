"""A trainer process and its pipe: spawn, speak, reuse, stop, kill. Knows no jobs.

Spawn from the main thread: the kernel kills a child when the thread that made it ends (core/tether.py).
"""

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

import core
from core import tether
from core.errors import Unavailable
from worker import logfiles, messages

log = logging.getLogger(__name__)

ROOT: Final = Path(core.__file__).resolve().parents[1]
OOM_SCORE_ADJ: Final = 800
SEND_TIMEOUT_S: Final = 30.0
READY_TIMEOUT_S: Final = 180.0
GRACE_S: Final = 5.0

# All that a trainer may know of our environment: nothing here says where the database, broker or store is.
INHERITED: Final = frozenset(
    {"PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    | {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"}
)
INHERITED_PREFIXES: Final = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_")


class ChildGone(Unavailable):
    """The trainer process has ended; `returncode` is negative when a signal ended it."""

    code = "trainer_gone"

    def __init__(self, returncode: int) -> None:
        super().__init__(f"the trainer process ended with code {returncode}")
        self.returncode = returncode


class ChildGarbled(Unavailable):
    """The trainer sent what is no message of this version."""

    code = "trainer_garbled"


class ChildDeaf(Unavailable):
    """The trainer does not read what it is sent, or never got ready."""

    code = "trainer_deaf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start as a trainer, and how.

    `threads` is the number of CPU threads (0: the library decides); output is appended to `log_path`. Without `gpu`
    the trainer sees no GPU, whatever the machine has.
    """

    log_path: Path
    argv: Sequence[str] = field(default_factory=lambda: (sys.executable, "-m", "worker.trainer"))
    threads: int = 0
    gpu: bool = True


def environment(parent: Mapping[str, str], *, threads: int, gpu: bool = True) -> dict[str, str]:
    """Choose what a trainer inherits of our environment, and what it is told."""
    chosen = {name: value for name, value in parent.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)}
    if threads:
        chosen |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    if not gpu:
        chosen["CUDA_VISIBLE_DEVICES"] = ""
    return chosen | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        # Spinning threads of a busy machine wait for each other: 178 s instead of 17 s for one job on two cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


class Child:
    """One trainer process. One thread speaks with it; `kill` may be called from any."""

    def __init__(self, process: subprocess.Popen[bytes], *, requests_fd: int, replies_fd: int, log_path: Path) -> None:
        self._process = process
        self._requests_fd = requests_fd
        self._replies_fd = replies_fd
        self._log_path = log_path
        self._buffer = b""
        self._reaping = threading.Lock()

    @classmethod
    def spawn(cls, program: Program) -> "Child":
        """Start a trainer in a session of its own, which ends when we do.

        Raises:
            OSError: No process or pipe can be had.
        """
        requests_read, requests_write = os.pipe()
        replies_read, replies_write = os.pipe()
        told = {"BLUELORA_REQUESTS_FD": str(requests_read), "BLUELORA_REPLIES_FD": str(replies_write)}
        try:
            with logfiles.appending(program.log_path) as output:
                process = subprocess.Popen(
                    tether.command(program.argv, oom_score_adj=OOM_SCORE_ADJ),
                    cwd=ROOT,
                    env=environment(os.environ, threads=program.threads, gpu=program.gpu) | told,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(requests_read, replies_write),
                    start_new_session=True,
                    umask=0o077,
                )
        except BaseException:
            os.close(requests_write)
            os.close(replies_read)
            raise
        finally:
            os.close(requests_read)
            os.close(replies_write)
        os.set_blocking(requests_write, False)
        os.set_blocking(replies_read, False)
        return cls(process, requests_fd=requests_write, replies_fd=replies_read, log_path=program.log_path)

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self._process.pid

    def alive(self) -> bool:
        """Say whether the process still runs."""
        with self._reaping:
            return self._process.poll() is None

    def send(self, message: messages.Line) -> None:
        """Hand one message over.

        Raises:
            ChildGone: The process has ended.
            ChildDeaf: It did not read for SEND_TIMEOUT_S.
            ValueError: The message is longer than a line may be.
        """
        rest = memoryview(messages.line(message))
        poll = select.poll()
        poll.register(self._requests_fd, select.POLLOUT)
        until = time.monotonic() + SEND_TIMEOUT_S
        while rest:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise ChildDeaf(f"the trainer process {self.pid} read nothing for {SEND_TIMEOUT_S:.0f} s")
            try:
                rest = rest[os.write(self._requests_fd, rest) :]
            except BrokenPipeError as error:
                raise ChildGone(self._wait()) from error

    def receive(self, timeout_s: float) -> messages.Reply | None:
        """Wait for the next reply; None when none came in time.

        Raises:
            ChildGone: The process has ended and all it said has been received.
            ChildGarbled: It sent something else than a message.
        """
        poll = select.poll()
        poll.register(self._replies_fd, select.POLLIN)
        until = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                # A descendant may hold the pipe open after the trainer itself is gone.
                if not self.alive():
                    raise ChildGone(self._wait())
                return None
            more = os.read(self._replies_fd, messages.MAX_LINE_BYTES)
            if not more:
                raise ChildGone(self._wait())
            self._buffer += more
            if len(self._buffer) > messages.MAX_LINE_BYTES and b"\n" not in self._buffer:
                raise ChildGarbled(f"the trainer process {self.pid} sent a line without an end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return messages.replies.validate_json(line)
        except ValidationError as error:
            raise ChildGarbled(f"the trainer process {self.pid} sent what is no message") from error

    def wait_ready(self) -> messages.Ready:
        """Wait until a fresh child says Ready.

        Raises:
            ChildGone: It ended instead.
            ChildGarbled: It said something else.
            ChildDeaf: It said nothing for READY_TIMEOUT_S.
        """
        first = self.receive(READY_TIMEOUT_S)
        if first is None:
            raise ChildDeaf(f"the trainer process {self.pid} was not ready within {READY_TIMEOUT_S:.0f} s")
        if not isinstance(first, messages.Ready):
            raise ChildGarbled(f"the trainer process {self.pid} began with {first.type}")
        return first

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all it has started; none is sent once it has been reaped."""
        with self._reaping:
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)

    def stop(self, *, grace_s: float = GRACE_S) -> None:
        """End the process: first by closing its requests, then by TERM, then by KILL."""
        self._close_requests()
        if self.ends_within(grace_s):
            self._close_replies()
            return
        self.signal(signal.SIGTERM)
        if not self.ends_within(grace_s):
            self.kill()
        self._close_replies()

    def kill(self) -> None:
        """End the process and all it has started, at once. Any thread may call this."""
        self.signal(signal.SIGKILL)
        if not self.ends_within(GRACE_S):
            log.error("trainer process %d does not die; its device may be stuck", self.pid)

    def close(self) -> None:
        """Kill what still runs and give the descriptors back."""
        self.kill()
        self._close_requests()
        self._close_replies()

    def trim_log(self) -> None:
        """Rotate the output's file once it is long."""
        logfiles.rotate(self._log_path)

    def ends_within(self, seconds: float) -> bool:
        """Wait for the process to end; False when it did not."""
        until = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def _wait(self) -> int:
        """Reap a process that closed its pipe, and whatever it left behind."""
        if not self.ends_within(GRACE_S):
            self.kill()
        with self._reaping:
            returncode = self._process.poll()
        return -signal.SIGKILL if returncode is None else returncode

    def _close_requests(self) -> None:
        if self._requests_fd >= 0:
            os.close(self._requests_fd)
            self._requests_fd = -1

    def _close_replies(self) -> None:
        if self._replies_fd >= 0:
            os.close(self._replies_fd)
            self._replies_fd = -1
