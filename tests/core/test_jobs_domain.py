"""Rules of a job's life that need no database."""

import pytest

from core.domain.jobs import MAX_DELAY_S, RETRIES, FailureClass, retry_delay_s, wish


def test_the_stronger_wish_wins() -> None:
    assert wish(cancel=True, pause=True, finish=True) == "cancel"
    assert wish(cancel=False, pause=True, finish=True) == "pause"
    assert wish(cancel=False, pause=False, finish=True) == "finish"
    assert wish(cancel=False, pause=False, finish=False) == "go_on"


@pytest.mark.parametrize(("earlier", "seconds"), [(0, 30), (1, 60), (2, 120), (5, MAX_DELAY_S)])
def test_waits_double_up_to_five_minutes_and_jitter_by_a_fifth(earlier: int, seconds: float) -> None:
    delays = [retry_delay_s(FailureClass.INFRA, earlier=earlier, jitter=jitter) for jitter in (0.0, 0.5, 1.0)]
    assert delays == pytest.approx([0.8 * seconds, seconds, 1.2 * seconds])


def test_a_full_disk_is_looked_at_every_five_minutes_for_a_day() -> None:
    rule = RETRIES[FailureClass.DISK_FULL]
    assert retry_delay_s(FailureClass.DISK_FULL, earlier=200, jitter=0.5) == 300
    assert rule.retries * 300 == 24 * 3600


def test_lost_and_preempted_jobs_do_not_wait() -> None:
    for kind in (FailureClass.WORKER_LOST, FailureClass.PREEMPTED):
        assert retry_delay_s(kind, earlier=2, jitter=1.0) == 0
