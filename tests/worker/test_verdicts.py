"""Why an attempt ended badly."""

import errno
import signal
from pathlib import Path

import pytest

from core.domain.jobs import FailureClass
from core.errors import StorageFull, Unavailable
from worker import verdicts


@pytest.mark.parametrize(
    ("returncode", "oom_kills_rose", "expected"),
    [
        (-signal.SIGKILL, True, FailureClass.OOM),
        (-signal.SIGKILL, False, FailureClass.WORKER_LOST),
        (-signal.SIGSEGV, True, FailureClass.INFRA),
        (-signal.SIGABRT, False, FailureClass.INFRA),
        (64, False, FailureClass.USER_ERROR),
        (75, False, FailureClass.PREEMPTED),
        (0, False, FailureClass.INFRA),
        (1, False, FailureClass.INFRA),
    ],
)
def test_an_exit_has_one_class(returncode: int, oom_kills_rose: bool, expected: FailureClass) -> None:
    assert verdicts.of_exit(returncode, oom_kills_rose=oom_kills_rose).failure_class is expected


def test_an_odd_signal_is_still_named() -> None:
    assert "signal 77" in verdicts.of_exit(-77, oom_kills_rose=False).message
    assert "SIGSEGV" in verdicts.of_exit(-signal.SIGSEGV, oom_kills_rose=False).message


def test_a_full_disk_is_told_from_other_faults() -> None:
    assert verdicts.of_error(OSError(errno.ENOSPC, "x")).failure_class is FailureClass.DISK_FULL
    assert verdicts.of_error(StorageFull("x")).failure_class is FailureClass.DISK_FULL
    assert verdicts.of_error(OSError(errno.EIO, "/secret/path")).failure_class is FailureClass.INFRA
    assert verdicts.of_error(Unavailable("x")).failure_class is FailureClass.INFRA


def test_a_failure_names_no_path() -> None:
    assert "secret" not in verdicts.of_error(OSError(errno.EIO, "no", "/secret/path")).message


def test_kills_are_counted_as_the_kernel_writes_them(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert verdicts.read_oom_kills(events) == 2
    events.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert verdicts.read_oom_kills(events) == 5
    assert verdicts.read_oom_kills(tmp_path / "absent") is None
    assert verdicts.oom_kills() >= 0
