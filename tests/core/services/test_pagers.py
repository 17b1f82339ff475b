"""The process that finds pages of Parquet: it reads little, is confined, and its end is told whatever ends it."""

import io
import os
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.domain.datasets import InvalidDataset
from core.domain.excerpts import MAX_TURNS, TURN_CHARACTERS, PageTooDeep
from core.errors import Problem
from core.services import pagers
from core.services.pagers import PageFailed, Pagers, TooManyPages
from core.services.paging import ASK_BYTES, Request
from core.storage.objects import ObjectMissing
from tests.support.children import children_of

ROWS = 20_000
GROUP_ROWS = 500


class Stored:
    """Bytes that are read by ranges, and how many were."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read = 0
        self.largest = 0

    def __call__(self, start: int, end: int) -> bytes:
        self.read += end - start
        self.largest = max(self.largest, end - start)
        return self.content[start:end]

    def wanted(self, *, after: int = 0, limit: int = 20) -> Request:
        return Request(size=len(self.content), after=after, limit=limit, characters=10**6)


def written(columns: Mapping[str, Sequence[object]], *, group_rows: int = GROUP_ROWS) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), file, row_group_size=group_rows)
    return file.getvalue()


@pytest.fixture(scope="module")
def large() -> bytes:
    dice = random.Random(0)
    answers = [f"answer {number} " + dice.randbytes(400).hex() for number in range(1, ROWS + 1)]
    return written({"instruction": ["question"] * ROWS, "output": answers, "source": answers})


@pytest.mark.parametrize("after", [0, GROUP_ROWS - 1, GROUP_ROWS, 12_345, ROWS - 1])
def test_of_a_large_file_the_group_of_the_page_is_read_and_no_more(large: bytes, after: int) -> None:
    stored = Stored(large)

    found = Pagers().page(stored.wanted(after=after, limit=5), stored)

    assert [one.line for one in found.rows] == list(range(after + 1, min(after + 6, ROWS + 1)))
    assert all(one.turns[-1].content.startswith(f"answer {one.line} ") for one in found.rows)
    assert found.has_more == (after + 5 < ROWS)
    assert len(large) > 10 * 2**20
    assert stored.read < 3 * 2**20
    assert stored.largest <= ASK_BYTES


def test_behind_the_last_row_there_is_nothing(large: bytes) -> None:
    stored = Stored(large)
    for after in (ROWS, 10**12 - 1):
        assert Pagers().page(stored.wanted(after=after), stored).rows == ()
    assert stored.read < 2**20


def _talks(*turns: int) -> Stored:
    """Rows of so many turns of one character each."""
    both = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    return Stored(written({"conversations": [both * (count // 2) for count in turns]}))


def test_a_page_of_many_short_turns_ends_early() -> None:
    stored = _talks(*[8000] * 6)

    found = Pagers().page(stored.wanted(), stored)

    assert [len(one.turns) for one in found.rows] == [8000] * 3
    assert 2 * 8000 * TURN_CHARACTERS < stored.wanted().characters < 3 * 8000 * TURN_CHARACTERS
    assert found.has_more


def test_a_row_of_too_many_turns_is_on_no_page() -> None:
    stored = _talks(2, MAX_TURNS + 2, MAX_TURNS)

    assert [one.line for one in Pagers().page(stored.wanted(), stored).rows] == [1]
    refused = Pagers().page(stored.wanted(after=1), stored)
    assert (refused.rows, refused.has_more) == ((), True)
    assert [one.line for one in Pagers().page(stored.wanted(after=2), stored).rows] == [3]


def test_the_longest_page_is_read_whole() -> None:
    longest = 2**20 - 1
    stored = Stored(written({"instruction": ["\x01" * 999_899, "a" + "\x01" * (longest - 2)], "output": ["b"] * 2}))

    assert [len(one.turns[0].content) for one in Pagers().page(stored.wanted(), stored).rows] == [999_899, longest - 1]


def test_rows_that_take_too_much_memory_are_not_shown_and_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagers, "MEMORY_BYTES", 500 * 2**20)
    stored = Stored(written({"instruction": ["汉" * 349_000] * 260, "output": ["b"] * 260}))
    assert len(stored.content) < 10**6

    with pytest.raises(PageTooDeep, match="memory"):
        Pagers().page(stored.wanted(), stored)


def test_a_page_that_is_not_there_in_time_is_not_laid_at_the_callers_door(
    large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagers, "PATIENCE_S", 0.01)
    stored = Stored(large)

    with pytest.raises(PageFailed) as caught:
        Pagers().page(stored.wanted(), stored)
    assert caught.value.retry_after_s


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGXCPU, PageTooDeep), (signal.SIGKILL, PageFailed), (signal.SIGTERM, PageFailed)],
)
def test_what_ends_the_process_says_whose_fault_it_is(
    large: bytes, number: signal.Signals, expected: type[Problem]
) -> None:
    def ended(start: int, end: int) -> bytes:
        for child in children_of(os.getpid(), "core.services.paging"):
            os.kill(child, number)
        return large[start:end]

    with pytest.raises(expected):
        Pagers().page(Stored(large).wanted(), ended)


def test_a_file_that_can_not_be_read_any_more_says_why(large: bytes) -> None:
    stored = Stored(large[:-8] + b"XXXXXXXX")

    with pytest.raises(InvalidDataset) as caught:
        Pagers().page(stored.wanted(), stored)
    assert caught.value.findings[0].code == "truncated"


def test_a_store_that_fails_meanwhile_is_told(large: bytes) -> None:
    def lost(start: int, end: int) -> bytes:
        raise ObjectMissing("Stored bytes are missing.")

    with pytest.raises(ObjectMissing):
        Pagers().page(Stored(large).wanted(), lost)


def test_more_pages_than_are_read_at_once_are_sent_away() -> None:
    free, held = threading.Event(), threading.Semaphore(0)
    stored = Stored(written({"instruction": ["a"], "output": ["b"]}))

    def waiting(start: int, end: int) -> bytes:
        held.release()
        assert free.wait(15)
        return stored(start, end)

    ours = Pagers()
    with ThreadPoolExecutor(pagers.AT_ONCE) as pool:
        running = [pool.submit(ours.page, stored.wanted(), waiting) for _ in range(pagers.AT_ONCE)]
        for _ in running:
            assert held.acquire(timeout=30)
        freeing = threading.Timer(2.0, free.set)  # who waited would have a turn then
        freeing.start()
        with pytest.raises(TooManyPages) as caught:
            ours.page(stored.wanted(), waiting)
        assert caught.value.retry_after_s
        freeing.cancel()
        free.set()
        assert all(len(one.result().rows) == 1 for one in running)
