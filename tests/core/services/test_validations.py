"""Late inspections hold their data set for as long as they take, and no longer than there is one."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from obstore.store import MemoryStore
from sqlalchemy import select

from core.db.tables import datasets as rows
from core.db.transactions import Database, connect, snapshot
from core.domain.datasets import Dataset
from core.domain.keys import Caller
from core.services import datasets, validations
from core.services.uploads import Upload, UploadLimits
from core.storage.objects import Store
from tests.support.children import inspectors_of, wait
from tests.support.streams import arriving
from tests.support.worlds import a_caller

ROW = b'{"instruction": "a", "input": "", "output": "b"}\n'
HASTY = UploadLimits(bytes=10**8, validation_wait_s=1e-6)


@dataclass(frozen=True)
class Late:
    """A data set that waits for its inspection."""

    database: Database
    store: Store
    caller: Caller
    dataset: Dataset

    def lease_until(self) -> float:
        with snapshot(self.database) as tx:
            found = tx.datasets.connection.execute(select(rows.c.lease_until).where(rows.c.id == self.dataset.id))
            return float(found.scalar_one())

    def now(self) -> Dataset:
        return datasets.get(self.dataset.id, caller=self.caller, database=self.database)

    def delete(self) -> None:
        datasets.delete(self.dataset.id, caller=self.caller, store=self.store, database=self.database)


@pytest.fixture(params=[10, 30_000], ids=["all bytes wait in the pipe", "the pipe is full"])
def late(request: pytest.FixtureRequest, sqlite_url: str) -> Iterator[Late]:
    database, store = connect(sqlite_url), Store(MemoryStore())
    caller = a_caller(database)
    registered = asyncio.run(
        datasets.receive(
            arriving(ROW * request.param),
            upload=Upload(filename="rows.jsonl"),
            caller=caller,
            key=None,
            store=store,
            database=database,
            limits=HASTY,
        )
    )
    yield Late(database, store, caller, registered.dataset)
    for child in inspectors_of(os.getpid()):
        os.kill(child, signal.SIGKILL)  # a failed test leaves it stopped
    database.close()


class Finishing:
    """`finish_pending` in a thread, with its inspecting process stopped until it is told to go on."""

    def __init__(self, late: Late, *, lease_s: float) -> None:
        self.finished: list[int] = []
        self._thread = threading.Thread(target=self._run, args=(late, lease_s), daemon=True)
        self._thread.start()
        wait(lambda: bool(inspectors_of(os.getpid())), pause_s=0.001)
        (self.child,) = inspectors_of(os.getpid())
        os.kill(self.child, signal.SIGSTOP)

    def _run(self, late: Late, lease_s: float) -> None:
        self.finished.append(validations.finish_pending(store=late.store, database=late.database, lease_s=lease_s))

    def go_on(self) -> int:
        os.kill(self.child, signal.SIGCONT)
        return self.end()

    def end(self) -> int:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.finished[0]


def test_the_claim_is_prolonged_while_the_process_stands_still(late: Late) -> None:
    finishing = Finishing(late, lease_s=0.6)
    seen = {late.lease_until()}

    def is_prolonged() -> bool:
        seen.add(late.lease_until())
        return len(seen) > 3

    wait(is_prolonged)
    assert late.now().status == "processing"

    assert finishing.go_on() == 1
    found = late.now()
    assert found.summary is not None
    assert (found.status, found.summary.rows) == ("ready", found.bytes // len(ROW))


def test_a_data_set_that_is_deleted_meanwhile_is_let_go_of(late: Late) -> None:
    finishing = Finishing(late, lease_s=0.6)

    late.delete()

    finishing.end()  # it may miss the bytes first, or the row
    assert inspectors_of(os.getpid()) == []
    with snapshot(late.database) as tx:
        assert not tx.datasets.hold(late.dataset.id)
