"""Pages of rows whose bytes go while they are looked at."""

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import MemoryStore
from typing_extensions import override

from core.db.transactions import connect
from core.domain.datasets import DatasetNotFound
from core.errors import Problem
from core.services import datasets, excerpts
from core.services.pagers import Pagers
from core.services.uploads import Upload, UploadLimits
from core.storage.objects import ObjectMissing, Store
from tests.support.streams import arriving
from tests.support.worlds import a_caller

LIMITS = UploadLimits(bytes=10**8, validation_wait_s=30.0)


@dataclass(frozen=True, slots=True)
class Losing(Store):
    """A store in which something happens before each range is read."""

    lose: Callable[[], None] = lambda: None

    @override
    def read(self, key: str, *, start: int, end: int) -> bytes:
        self.lose()
        return Store.read(self, key, start=start, end=end)


def _parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"instruction": ["a"], "output": ["b"]}), file)
    return file.getvalue()


@pytest.mark.parametrize("content", [b'{"instruction": "a", "output": "b"}\n', _parquet()], ids=["jsonl", "parquet"])
@pytest.mark.parametrize(("is_deleted", "expected"), [(True, DatasetNotFound), (False, ObjectMissing)])
def test_bytes_that_go_meanwhile_are_missing_unless_the_data_set_went_with_them(
    sqlite_url: str, content: bytes, is_deleted: bool, expected: type[Problem]
) -> None:
    database, backend = connect(sqlite_url), MemoryStore()
    store, caller = Store(backend), a_caller(database)
    upload = Upload(filename="rows")
    registered = asyncio.run(
        datasets.receive(
            arriving(content), upload=upload, caller=caller, key=None, store=store, database=database, limits=LIMITS
        )
    )
    found = registered.dataset
    assert found.status == "ready"

    def lose() -> None:
        if not is_deleted:
            store.delete(found.object_key or "")
        elif not lost:
            datasets.delete(found.id, caller=caller, store=store, database=database)
        lost.append(True)

    lost: list[bool] = []
    page = partial(excerpts.page, found.id, after=None, limit=20, caller=caller, pagers=Pagers(), database=database)
    try:
        assert len(page(store=store).data) == 1
        with pytest.raises(expected):
            page(store=Losing(backend, lose=lose))
    finally:
        database.close()
