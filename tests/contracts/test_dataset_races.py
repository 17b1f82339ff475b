"""What several requests do to the same bytes at once, on both databases."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest
from obstore.store import MemoryStore

from core.db.transactions import Database
from core.domain import inspections
from core.domain.datasets import Dataset, DatasetInUse, DatasetNotFound
from core.domain.keys import Caller
from core.services import datasets
from core.services.uploads import Arrived, Upload
from core.storage.objects import Store
from tests.contracts.test_datasets import ANY_AGE
from tests.support.streams import arriving
from tests.support.worlds import World, a_base, a_caller

GOOD = b'{"instruction": "a", "input": "", "output": "b"}\n'
ROUNDS = 15


class Arrivals:
    """Files that have come in and been inspected, ready to become data sets; no process is started for each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = Store(MemoryStore())

    def arrive(self, caller: Caller, name: str, content: bytes = GOOD) -> Callable[[], Dataset]:
        received = asyncio.run(self.store.receive(arriving(content), limit_bytes=10**6))
        inspection = inspections.inspect([content])
        arrived = Arrived(name=name, upload=Upload(filename=name), received=received, inspection=inspection)
        offer = datasets._Offer(arrived=arrived, caller=caller, key=None, show=datasets.name_only)
        return lambda: datasets._register(offer, self.store, self.database).dataset

    def delete(self, dataset: Dataset, caller: Caller) -> None:
        datasets.delete(dataset.id, caller=caller, store=self.store, database=self.database)

    def objects(self) -> set[str]:
        return set(self.store.older_than(ANY_AGE, prefix="blobs"))


@pytest.fixture
def arrivals(database: Database) -> Arrivals:
    return Arrivals(database)


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Run calls in threads that start together; gives results and errors in their order."""
    start, results = threading.Barrier(len(calls)), dict[int, object]()

    def run(place: int, call: Callable[[], object]) -> None:
        start.wait()
        try:
            results[place] = call()
        except Exception as error:  # noqa: BLE001  (judged by the test)
            results[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[place] for place in range(len(calls))]


def test_equal_bytes_of_many_projects_at_once_make_one_object(arrivals: Arrivals) -> None:
    for number in range(ROUNDS):
        callers = [a_caller(arrivals.database, project=f"p{number}-{each}") for each in range(4)]
        content = GOOD * (number + 1)
        made = at_once(*(arrivals.arrive(caller, "rows", content) for caller in callers))
        keys = {one.object_key for one in made if isinstance(one, Dataset)}
        assert len(keys) == 1, made
        assert len(arrivals.objects()) == number + 1


def test_a_data_set_that_comes_while_its_twin_goes_keeps_its_bytes(arrivals: Arrivals) -> None:
    leaving, coming = (a_caller(arrivals.database, project=name) for name in ("leaving", "coming"))
    for number in range(ROUNDS):
        old = arrivals.arrive(leaving, "old", GOOD * (number + 1))()
        _, new = at_once(
            partial(arrivals.delete, old, leaving), arrivals.arrive(coming, f"n{number}", GOOD * (number + 1))
        )
        assert isinstance(new, Dataset), new
        assert new.object_key in arrivals.objects()
        assert len(arrivals.objects()) == number + 1, "no bytes are left that nobody has"


@pytest.mark.parametrize("field", ["dataset", "validation_dataset"])
def test_a_data_set_is_deleted_or_gets_a_job_never_both(arrivals: Arrivals, field: str) -> None:
    caller = a_caller(arrivals.database)
    base = a_base(arrivals.database)
    other = arrivals.arrive(caller, "other")()
    world = World(arrivals.database, caller, base, other)
    won = {"deleted": 0, "used": 0}
    for number in range(ROUNDS):
        wanted = arrivals.arrive(caller, f"d{number}", GOOD * (number + 2))()
        deleted, job = at_once(
            partial(arrivals.delete, wanted, caller),
            partial(submit, world, field, wanted),
        )
        if deleted is None:
            won["deleted"] += 1
            assert isinstance(job, DatasetNotFound), job
            assert wanted.object_key not in arrivals.objects()
        else:
            won["used"] += 1
            assert isinstance(deleted, DatasetInUse), deleted
            assert wanted.object_key in arrivals.objects()
    assert sum(won.values()) == ROUNDS


def submit(world: World, field: str, wanted: Dataset) -> object:
    return world.submit(**{field: wanted.id})  # type: ignore[arg-type]
