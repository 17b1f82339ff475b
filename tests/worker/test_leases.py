"""The lease of an attempt, with a renewal that behaves as told."""

import threading
import time
from collections.abc import Callable

import pytest

from core.domain.jobs import AttemptLost, Wish
from core.errors import Problem, StorageFull, Unavailable
from worker.leases import Lease


class Renewal:
    """A database for one lease: answers, is away, hangs, or says that the job is another's."""

    def __init__(self) -> None:
        self.calls = 0
        self.wish: Wish = "go_on"
        self.away: type[Problem] | None = None
        self.taken = False
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self) -> Wish:
        self.calls += 1
        self.hangs.wait()
        if self.away:
            raise self.away("away")
        if self.taken:
            raise AttemptLost("taken")
        return self.wish


def wait_until(holds: Callable[[], bool], seconds: float = 5.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.005)
    return time.monotonic() - began


def test_a_lease_is_renewed_and_brings_the_owners_wish() -> None:
    renewal, lost = Renewal(), list[str]()
    with Lease(renewal, lease_s=1.0, heartbeat_s=0.05, on_lost=lambda: lost.append("lost")) as lease:
        time.sleep(1.2)
        assert not lease.lost
        renewal.wish = "cancel"
        assert wait_until(lambda: lease.wish == "cancel") < 0.3
    assert renewal.calls > 10
    assert not lost


@pytest.mark.parametrize("fault", ["away", "hangs"])
def test_a_silent_database_fences_us_off_before_the_lease_runs_out(fault: str) -> None:
    renewal, lost = Renewal(), list[float]()
    began = time.monotonic()
    with Lease(renewal, lease_s=0.6, heartbeat_s=0.1, on_lost=lambda: lost.append(time.monotonic() - began)) as lease:
        if fault == "away":
            renewal.away = Unavailable
        else:
            renewal.hangs.clear()
        wait_until(lambda: bool(lost))
        with pytest.raises(AttemptLost):
            lease.check()
        renewal.hangs.set()
    assert len(lost) == 1
    assert 0.5 <= lost[0] < 0.6


def test_a_takeover_is_noticed_at_the_next_heartbeat_and_told_once() -> None:
    renewal, lost = Renewal(), list[str]()
    with Lease(renewal, lease_s=30.0, heartbeat_s=0.05, on_lost=lambda: lost.append("lost")) as lease:
        renewal.taken = True
        assert wait_until(lambda: lease.lost) < 0.3
        time.sleep(0.2)
    assert lost == ["lost"]


@pytest.mark.parametrize("fault", [Unavailable, StorageFull])
def test_a_database_that_comes_back_in_time_costs_nothing(fault: type[Problem]) -> None:
    renewal, lost = Renewal(), list[str]()
    with Lease(renewal, lease_s=2.0, heartbeat_s=0.1, on_lost=lambda: lost.append("lost")) as lease:
        renewal.away = fault
        time.sleep(0.8)
        renewal.away = None
        time.sleep(1.5)
        assert not lease.lost
    assert not lost


def test_a_late_answer_counts_from_when_it_was_asked() -> None:
    renewal = Renewal()

    def slowly() -> Wish:
        time.sleep(0.3)
        return "go_on"

    with Lease(renewal, lease_s=0.3, heartbeat_s=60.0, on_lost=lambda: None) as lease:
        lease.through(slowly)
        assert lease.lost


def test_a_write_is_tried_until_the_database_is_back() -> None:
    renewal, answers = Renewal(), [Unavailable("away"), StorageFull("full"), None]

    def write() -> None:
        if error := answers.pop(0):
            raise error

    with Lease(renewal, lease_s=30.0, heartbeat_s=5.0, on_lost=lambda: None) as lease:
        lease.persist(write)
    assert not answers


def test_a_write_is_given_up_with_the_lease() -> None:
    renewal = Renewal()
    renewal.away = Unavailable

    def write() -> None:
        raise Unavailable("away")

    with Lease(renewal, lease_s=0.6, heartbeat_s=0.2, on_lost=lambda: None) as lease, pytest.raises(AttemptLost):
        lease.persist(write)
