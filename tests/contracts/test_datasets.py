"""Data sets on both databases: from the first byte to the last row."""

import asyncio
import gzip
import hashlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from core.db import tables
from core.db.transactions import Database, transaction
from core.domain.datasets import Dataset, DatasetInUse, DatasetNotFound, DatasetTooLarge, InvalidDataset
from core.domain.jobs import Status
from core.domain.keys import Caller
from core.domain.pages import Filters, InvalidFilter
from core.services import datasets, idempotency, validations
from core.services.uploads import ChecksumMismatch, Upload, UploadLimits
from core.storage.objects import ObjectMissing, Store
from tests.support.streams import arriving
from tests.support.worlds import World, a_base, a_caller

GOOD = b'{"instruction": "a", "input": "", "output": "b"}\n'
LIMITS = UploadLimits(bytes=10**6, validation_wait_s=30)
HASTY = UploadLimits(bytes=10**6, validation_wait_s=1e-6)
LEASE_S = 30.0
ANY_AGE = timedelta(seconds=-60)


@pytest.fixture
def store() -> Store:
    return Store(MemoryStore())


@pytest.fixture
def caller(database: Database) -> Caller:
    return a_caller(database)


class Uploader:
    """Sends files as one caller."""

    def __init__(self, database: Database, store: Store, caller: Caller) -> None:
        self.database, self.store, self.caller = database, store, caller

    def send(
        self,
        content: bytes | AsyncIterator[bytes],
        *,
        name: str | None = None,
        key: str | None = None,
        limits: UploadLimits = LIMITS,
        upload: Upload | None = None,
    ) -> datasets.Registered:
        chunks = arriving(content) if isinstance(content, bytes) else content
        return asyncio.run(
            datasets.receive(
                chunks,
                upload=upload or Upload(filename="rows.jsonl", name=name),
                caller=self.caller,
                key=key,
                store=self.store,
                database=self.database,
                limits=limits,
            )
        )

    def objects(self) -> int:
        return len(list(self.store.older_than(ANY_AGE, prefix="blobs")))


@pytest.fixture
def uploader(database: Database, store: Store, caller: Caller) -> Uploader:
    return Uploader(database, store, caller)


def test_a_good_file_becomes_a_data_set(uploader: Uploader, tmp_path: Path) -> None:
    upload = Upload(filename="../../Über uns.jsonl", metadata={"team": "search"})

    registered = uploader.send(GOOD * 3, upload=upload)

    dataset = registered.dataset
    assert registered.created
    assert (dataset.name, dataset.version, dataset.status, dataset.filename) == (
        "ber-uns",
        1,
        "ready",
        "Über uns.jsonl",
    )
    assert dataset.summary is not None
    assert (dataset.summary.rows, dataset.summary.duplicates) == (3, 2)
    assert [finding.code for finding in dataset.findings] == ["duplicate_rows"]
    assert datasets.get(dataset.id, caller=uploader.caller, database=uploader.database) == dataset
    assert datasets.fetch_to(dataset, tmp_path / "copy", uploader.store).read_bytes() == GOOD * 3


def test_a_bad_file_leaves_nothing(uploader: Uploader) -> None:
    with pytest.raises(InvalidDataset, match=r"line 2: The row has no output\.$") as caught:
        uploader.send(GOOD + b'{"instruction": "a"}\n')

    assert [(one.line, one.code, one.field) for one in caught.value.findings] == [(2, "missing_field", "output")]
    assert uploader.objects() == 0
    assert datasets.listing(uploader.caller, Filters(), uploader.database).data == ()


def test_a_disguise_is_refused_before_the_upload_ends(uploader: Uploader) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"\x1f\x8b" + b"\0" * 1000
        for _ in range(10_000):
            await asyncio.sleep(0.001)
            yield b"\0" * 10
        pytest.fail("the refusal did not stop the upload")

    with pytest.raises(InvalidDataset, match="gzip"):
        uploader.send(endless())

    assert uploader.objects() == 0


def test_a_file_over_the_limit_leaves_nothing(uploader: Uploader) -> None:
    with pytest.raises(DatasetTooLarge, match="larger than 1000000 bytes"):
        uploader.send(GOOD * 30_000)

    assert uploader.objects() == 0


def test_a_client_that_goes_away_leaves_nothing(uploader: Uploader) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield GOOD * 1000
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        uploader.send(broken())

    assert uploader.objects() == 0


def test_a_wrong_checksum_is_refused(uploader: Uploader) -> None:
    with pytest.raises(ChecksumMismatch):
        uploader.send(GOOD, upload=Upload(filename="a.jsonl", sha256="0" * 64))

    assert uploader.objects() == 0


def test_the_same_bytes_are_the_same_version_and_new_ones_the_next(uploader: Uploader) -> None:
    first = uploader.send(GOOD, name="huanhuan")
    again = uploader.send(GOOD, name="huanhuan")
    second = uploader.send(GOOD * 2, name="huanhuan")
    back = uploader.send(GOOD, name="huanhuan")

    assert first.created
    assert second.created
    assert not again.created
    assert not back.created
    assert again.dataset == back.dataset == first.dataset
    assert second.dataset.reference == "huanhuan@2"
    assert uploader.objects() == 2


def test_the_same_rows_packed_are_other_bytes(uploader: Uploader, tmp_path: Path) -> None:
    packed = gzip.compress(GOOD, mtime=0)
    plain = uploader.send(GOOD, name="a").dataset
    first, again = (uploader.send(packed, name="a") for _ in range(2))

    assert (first.created, again.created) == (True, False)
    assert again.dataset == first.dataset
    assert first.dataset.reference == "a@2"
    for dataset, content in ((plain, GOOD), (first.dataset, packed)):
        assert dataset.sha256 == hashlib.sha256(content).hexdigest()
        assert datasets.fetch_to(dataset, tmp_path / dataset.id, uploader.store).read_bytes() == content
    assert uploader.objects() == 2


def test_equal_bytes_of_two_names_share_one_object_until_the_last_goes(uploader: Uploader, tmp_path: Path) -> None:
    one, other = (uploader.send(GOOD, name=name).dataset for name in ("one", "other"))
    assert one.object_key == other.object_key
    assert uploader.objects() == 1

    datasets.delete(one.id, caller=uploader.caller, store=uploader.store, database=uploader.database)
    assert datasets.fetch_to(other, tmp_path / "copy", uploader.store).read_bytes() == GOOD

    datasets.delete(other.id, caller=uploader.caller, store=uploader.store, database=uploader.database)
    assert uploader.objects() == 0


def test_a_deleted_data_set_is_gone_and_its_version_never_comes_again(uploader: Uploader) -> None:
    first = uploader.send(GOOD, name="a").dataset

    datasets.delete(first.id, caller=uploader.caller, store=uploader.store, database=uploader.database)

    with pytest.raises(DatasetNotFound):
        datasets.get(first.id, caller=uploader.caller, database=uploader.database)
    with pytest.raises(DatasetNotFound):
        datasets.delete(first.id, caller=uploader.caller, store=uploader.store, database=uploader.database)
    assert uploader.send(GOOD, name="a").dataset.version == 2


def test_an_idempotency_key_makes_one_data_set(uploader: Uploader) -> None:
    first = uploader.send(GOOD, name="a", key="k")
    replayed = uploader.send(GOOD, name="a", key="k")

    assert replayed.replayed
    assert replayed.created
    assert replayed.dataset == first.dataset
    with pytest.raises(idempotency.KeyReused):
        uploader.send(GOOD * 2, name="a", key="k")
    assert uploader.objects() == 1
    assert uploader.send(GOOD * 2, name="a").dataset.version == 2


def test_references_find_the_newest_or_the_named_version(uploader: Uploader) -> None:
    one, two = (uploader.send(GOOD * count, name="a").dataset for count in (1, 2))

    def resolve(reference: str) -> Dataset:
        return datasets.resolve(reference, project_id=uploader.caller.project_id, database=uploader.database)

    assert resolve(one.id) == resolve("a@1") == one
    assert resolve("a") == resolve("a@2") == two
    for unknown in ("b", "a@3", "a@0", "a@", "@1", "", "a@1@1", "ds_" + "0" * 26, "a\0"):
        with pytest.raises(DatasetNotFound):
            resolve(unknown)


def test_another_project_sees_nothing(uploader: Uploader) -> None:
    mine = uploader.send(GOOD, name="a").dataset
    stranger = a_caller(uploader.database, project="other")

    for attempt in (
        lambda: datasets.get(mine.id, caller=stranger, database=uploader.database),
        lambda: datasets.resolve("a", project_id=stranger.project_id, database=uploader.database),
        lambda: datasets.resolve(mine.id, project_id=stranger.project_id, database=uploader.database),
        lambda: datasets.delete(mine.id, caller=stranger, store=uploader.store, database=uploader.database),
    ):
        with pytest.raises(DatasetNotFound):
            attempt()
    assert datasets.listing(stranger, Filters(), uploader.database).data == ()
    theirs = Uploader(uploader.database, uploader.store, stranger).send(GOOD, name="a").dataset
    assert (theirs.version, theirs.object_key) == (1, mine.object_key)


def test_lists_are_newest_first_and_filtered(uploader: Uploader) -> None:
    made = [
        uploader.send(GOOD * count, upload=Upload(filename="x", name=name, metadata={"n": str(count)})).dataset
        for count, name in enumerate(("a", "b", "a"), 1)
    ]

    page = datasets.listing(uploader.caller, Filters(limit=2), uploader.database)
    rest = datasets.listing(uploader.caller, Filters(after=page.data[-1].id), uploader.database)

    assert [*page.data, *rest.data] == made[::-1]
    assert page.has_more
    assert not rest.has_more
    assert datasets.listing(uploader.caller, Filters(name="b"), uploader.database).data == (made[1],)
    assert datasets.listing(uploader.caller, Filters(metadata={"n": "3"}), uploader.database).data == (made[2],)
    assert datasets.listing(uploader.caller, Filters(status="processing"), uploader.database).data == ()
    with pytest.raises(InvalidFilter):
        datasets.listing(uploader.caller, Filters(status="done"), uploader.database)


def set_status(database: Database, status: Status) -> None:
    with database.engine.begin() as connection:
        connection.execute(tables.jobs.update().values(status=status.value))


def test_a_data_set_that_a_job_needs_stays(uploader: Uploader) -> None:
    needed, other = (uploader.send(GOOD * count, name="a").dataset for count in (1, 2))
    base = a_base(uploader.database)

    def delete(dataset: Dataset) -> None:
        datasets.delete(dataset.id, caller=uploader.caller, store=uploader.store, database=uploader.database)

    world = World(uploader.database, uploader.caller, base, needed)
    job = world.submit(dataset=needed.id, validation_dataset=other.id)
    for status in (Status.RUNNING, Status.PAUSED, Status.QUEUED):
        set_status(uploader.database, status)
        for dataset in (needed, other):
            with pytest.raises(DatasetInUse, match=job.id):
                delete(dataset)
    set_status(uploader.database, Status.CANCELLED)
    delete(needed)
    delete(other)


def test_a_late_inspection_makes_the_data_set_ready(uploader: Uploader) -> None:
    waiting = uploader.send(GOOD, limits=HASTY).dataset
    assert (waiting.status, waiting.summary) == ("processing", None)

    assert validations.finish_pending(store=uploader.store, database=uploader.database, lease_s=LEASE_S) == 1

    ready = datasets.get(waiting.id, caller=uploader.caller, database=uploader.database)
    assert ready.summary is not None
    assert ready == replace(waiting, status="ready", summary=ready.summary)
    assert ready.summary.rows == 1
    assert validations.finish_pending(store=uploader.store, database=uploader.database, lease_s=LEASE_S) == 0


def test_a_late_refusal_keeps_the_report_and_drops_the_bytes(uploader: Uploader, tmp_path: Path) -> None:
    waiting = uploader.send(GOOD + b"{}\n", name="a", limits=HASTY).dataset

    validations.finish_pending(store=uploader.store, database=uploader.database, lease_s=LEASE_S)

    refused = datasets.get(waiting.id, caller=uploader.caller, database=uploader.database)
    assert refused.status == "invalid"
    assert [(finding.line, finding.code) for finding in refused.findings] == [(2, "unknown_format")]
    assert uploader.objects() == 0
    with pytest.raises(ObjectMissing):
        datasets.fetch_to(refused, tmp_path / "copy", uploader.store)
    with pytest.raises(DatasetNotFound):
        datasets.resolve("a", project_id=uploader.caller.project_id, database=uploader.database)
    assert uploader.send(GOOD, name="a").dataset.version == 2


def test_lost_bytes_are_told_in_the_report(uploader: Uploader) -> None:
    waiting = uploader.send(GOOD, limits=HASTY).dataset
    assert waiting.object_key is not None
    uploader.store.delete(waiting.object_key)

    validations.finish_pending(store=uploader.store, database=uploader.database, lease_s=LEASE_S)

    lost = datasets.get(waiting.id, caller=uploader.caller, database=uploader.database)
    assert (lost.status, lost.findings[0].code) == ("invalid", "bytes_missing")


def test_a_claim_keeps_others_off_until_its_lease_runs_out(uploader: Uploader) -> None:
    waiting = uploader.send(GOOD, limits=HASTY).dataset

    def claim(lease_s: float) -> Dataset | None:
        with transaction(uploader.database) as tx:
            return tx.datasets.claim_pending(lease_s=lease_s)

    assert claim(lease_s=60) == waiting
    assert claim(lease_s=60) is None
    with transaction(uploader.database) as tx:
        assert tx.datasets.renew(waiting.id, lease_s=-1)
    assert claim(lease_s=60) == waiting


def test_a_data_set_deleted_while_it_waits_is_not_inspected(uploader: Uploader) -> None:
    waiting = uploader.send(GOOD, limits=HASTY).dataset

    datasets.delete(waiting.id, caller=uploader.caller, store=uploader.store, database=uploader.database)

    assert validations.finish_pending(store=uploader.store, database=uploader.database, lease_s=LEASE_S) == 0
    assert uploader.objects() == 0


def test_uploads_of_one_name_at_once_get_one_version_each(uploader: Uploader) -> None:
    made: list[datasets.Registered] = []
    threads = [
        threading.Thread(target=lambda count=count: made.append(uploader.send(GOOD * count, name="a")))
        for count in (1, 2, 3, 1, 2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(one.dataset.version for one in made) == [1, 1, 2, 2, 3, 3]
    assert sum(one.created for one in made) == 3
    assert uploader.objects() == 3


def test_orphans_are_swept_and_nothing_else(uploader: Uploader, tmp_path: Path) -> None:
    kept = uploader.send(GOOD).dataset
    asyncio.run(uploader.store.receive(arriving(b"orphan"), limit_bytes=100))

    assert datasets.sweep(store=uploader.store, database=uploader.database) == 0
    assert datasets.sweep(store=uploader.store, database=uploader.database, older_than=ANY_AGE) == 1
    assert datasets.fetch_to(kept, tmp_path / "copy", uploader.store).read_bytes() == GOOD
