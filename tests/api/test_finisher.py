"""The thread that finishes uploads outlives what goes wrong in it."""

import threading

import pytest

from api import finisher
from api.finisher import Finisher


def test_a_bug_in_one_round_does_not_end_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finisher, "PAUSE_S", 0.01)
    rounds: list[int] = []
    third = threading.Event()

    def finish() -> None:
        rounds.append(len(rounds))
        if len(rounds) == 3:
            third.set()
        raise OSError("no process could be started")

    running = Finisher("test", finish=finish)
    running.start()
    assert third.wait(10)
    running.stop()
