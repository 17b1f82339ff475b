"""The one classifier: why an attempt ended badly, when the trainer could not say so itself."""

import errno
import signal
from pathlib import Path
from typing import Final

from core.domain.jobs import RETRIES, Failure, FailureClass
from core.errors import Problem, StorageFull
from core.storage.bundles import BrokenBundle
from worker import messages

# The kernel counts processes that it killed for want of memory, per control group.
CGROUPS: Final = Path("/sys/fs/cgroup")


def of_exit(returncode: int, *, oom_kills_rose: bool) -> Failure:
    """Say why a trainer ended without a last word; `returncode` is negative when a signal ended it."""
    if returncode == -signal.SIGKILL and oom_kills_rose:
        return _failure(
            FailureClass.OOM,
            "out_of_memory",
            "The machine ran out of memory. Lower per_device_train_batch_size, max_length or r.",
        )
    if returncode == -signal.SIGKILL:
        return _failure(FailureClass.WORKER_LOST, "trainer_killed", "The trainer was killed from outside.")
    if returncode == messages.EXIT_USER_ERROR:
        return _failure(FailureClass.USER_ERROR, "trainer_refused", "The trainer refused this job's spec or data.")
    if returncode == messages.EXIT_PREEMPTED:
        return _failure(FailureClass.PREEMPTED, "preempted", "The trainer was asked to leave.")
    if returncode < 0:
        return _failure(FailureClass.INFRA, "trainer_crashed", f"The trainer was ended by {_name(-returncode)}.")
    return _failure(FailureClass.INFRA, "trainer_crashed", f"The trainer ended with code {returncode}, and no result.")


def of_error(error: Problem | OSError) -> Failure:
    """Say why an attempt could not be prepared or published."""
    if isinstance(error, StorageFull) or (isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}):
        return _failure(FailureClass.DISK_FULL, "disk_full", "The worker or the object store has no room left.")
    if isinstance(error, BrokenBundle):
        return _failure(FailureClass.INTEGRITY, error.code, error.detail)
    if isinstance(error, Problem):
        return _failure(FailureClass.INFRA, error.code, error.detail)
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return _failure(FailureClass.INFRA, "io_error", f"The worker could not read or write a file ({reason}).")


def stalled(seconds: float) -> Failure:
    """Say that a trainer was stuck."""
    return _failure(FailureClass.STALLED, "stalled", f"The trainer made no progress for {seconds:.0f} s.")


def garbled() -> Failure:
    """Say that a trainer spoke nonsense."""
    return _failure(FailureClass.INFRA, "trainer_garbled", "The trainer sent what is no message.")


def oom_kills() -> int:
    """Count the processes of our control group that were killed for want of memory; 0 where nobody counts."""
    own = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "0::/")
    for folder in (CGROUPS / own.removeprefix("0::").lstrip("/"), CGROUPS, CGROUPS / "memory"):
        for name in ("memory.events", "memory.oom_control"):
            counted = read_oom_kills(folder / name)
            if counted is not None:
                return counted
    return 0


def read_oom_kills(path: Path) -> int | None:
    """Read `oom_kill N` from a control group's file; None when the file does not say."""
    if not path.is_file():
        return None
    pairs = (line.split() for line in path.read_text().splitlines())
    return next((int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == "oom_kill"), None)


def _failure(failure_class: FailureClass, code: str, message: str) -> Failure:
    return Failure(
        code=code, message=message, failure_class=failure_class, retryable=RETRIES[failure_class].retries > 0
    )


def _name(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
