"""Slow or stuck?"""

from worker.pulses import Pulse


def test_the_first_step_may_take_twice_as_long() -> None:
    pulse = Pulse(900, now=0)
    assert not pulse.overdue(1800)
    assert pulse.overdue(1801)


def test_a_fast_trainer_is_stuck_after_the_limit() -> None:
    pulse = Pulse(900, now=0)
    for second in range(1, 50):
        pulse.step(second, second)
    assert not pulse.overdue(49 + 900)
    assert pulse.overdue(49 + 901)


def test_a_slow_trainer_gets_twenty_of_its_steps() -> None:
    pulse = Pulse(900, now=0)
    for number in range(1, 5):
        pulse.step(number * 100, number)
    assert not pulse.overdue(400 + 2000)
    assert pulse.overdue(400 + 2001)


def test_other_work_starts_the_clock_anew_and_is_no_step() -> None:
    pulse = Pulse(900, now=0)
    pulse.step(1, 1)
    pulse.step(2, 2)
    pulse.turn(500)
    assert not pulse.overdue(500 + 1800)
    pulse.step(1500, 3)
    pulse.step(1501, 4)
    assert pulse.limit_s() == 900


def test_a_step_said_twice_counts_once() -> None:
    pulse = Pulse(1, now=0)
    for number in range(1, 5):
        pulse.step(number * 100, number)
        pulse.step(number * 100 + 0.1, number)
    assert pulse.limit_s() == 2000
