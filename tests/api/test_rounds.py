"""Work that comes round again outlives what goes wrong in it."""

import threading

from api.rounds import Rounds


def test_a_bug_in_one_round_does_not_end_the_rounds() -> None:
    rounds: list[int] = []
    third = threading.Event()

    def work() -> None:
        rounds.append(len(rounds))
        if len(rounds) == 3:
            third.set()
        raise OSError("no process could be started")

    running = Rounds(work, name="finisher", pause_s=0.01)
    running.start()
    assert third.wait(10)
    running.stop()
