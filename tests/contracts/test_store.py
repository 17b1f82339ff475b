"""What every object store must do."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import obstore
import pytest

from core.storage.objects import (
    ObjectCorrupt,
    ObjectMissing,
    ObjectTooLarge,
    Store,
    StoreFull,
    StoreUnavailable,
    UnknownStore,
)
from tests.support.s3 import S3
from tests.support.streams import arriving

MIB = 2**20
ANY_AGE = timedelta(seconds=-60)


def receive(store: Store, chunks: AsyncIterator[bytes], limit: int = 2**40) -> str:
    async def run() -> str:
        return (await store.receive(chunks, limit_bytes=limit)).key

    return asyncio.run(run())


def blobs(store: Store) -> set[str]:
    return set(store.older_than(ANY_AGE, prefix="blobs"))


@pytest.mark.parametrize("size", [0, 1, 100_000, 12 * MIB + 7])
def test_a_stream_is_stored_counted_and_hashed(store: Store, size: int) -> None:
    content = os.urandom(size)

    received = asyncio.run(store.receive(arriving(content, 200_000), limit_bytes=size))

    assert received.bytes == size
    assert received.sha256 == hashlib.sha256(content).hexdigest()
    assert b"".join(store.chunks(received.key)) == content
    assert received.key in blobs(store)


def test_a_stream_that_breaks_off_leaves_nothing_and_says_why(store: Store) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 300_000
        raise ConnectionResetError("the client went away")

    before = blobs(store)

    with pytest.raises(ConnectionResetError, match="went away"):
        receive(store, broken())

    assert blobs(store) == before


def test_a_stream_over_its_limit_leaves_nothing(store: Store) -> None:
    before = blobs(store)

    with pytest.raises(ObjectTooLarge, match="larger than 9000000 bytes"):
        receive(store, arriving(b"x" * 9_000_001), limit=9_000_000)

    assert blobs(store) == before


def test_a_cancelled_stream_leaves_nothing(store: Store) -> None:
    before = blobs(store)

    async def run() -> None:
        async def stalled() -> AsyncIterator[bytes]:
            yield b"x" * 11 * MIB
            await asyncio.sleep(60)

        task = asyncio.create_task(store.receive(stalled(), limit_bytes=2**40))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.3)

    asyncio.run(run())

    assert blobs(store) == before


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_file_is_stored_once_under_its_hash(store: Store, tmp_path: Path, size: int) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(size))

    first, second = store.put_file(path), store.put_file(path)

    assert first == second
    assert (first.name, first.bytes) == ("weights.bin", size)
    assert b"".join(store.chunks(f"sha256/{first.sha256}")) == path.read_bytes()


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_an_object_of_the_wrong_size_is_put_again(store: Store, tmp_path: Path, size: int) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(size))
    key = f"sha256/{hashlib.sha256(path.read_bytes()).hexdigest()}"
    obstore.put(store.backend, key, b"torn")

    store.put_file(path)

    assert b"".join(store.chunks(key)) == path.read_bytes()


@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_a_stream_becomes_a_file_under_its_hash(store: Store, size: int) -> None:
    content = os.urandom(size)
    for _ in range(2):
        received = asyncio.run(store.receive(arriving(content, 200_000), limit_bytes=size))
        kept = store.keep(received, name="weights.bin")
        assert (kept.name, kept.sha256, kept.bytes) == ("weights.bin", hashlib.sha256(content).hexdigest(), size)
        assert b"".join(store.chunks(f"sha256/{kept.sha256}")) == content
        assert received.key not in blobs(store)


def test_an_object_moves_once(store: Store) -> None:
    key = receive(store, arriving(b"x"))

    assert store.move(key, f"aside/{uuid4().hex}")
    assert not store.move(key, f"aside/{uuid4().hex}")
    assert not store.is_older(key, ANY_AGE)


def test_a_fetched_file_appears_whole(store: Store, tmp_path: Path) -> None:
    content = os.urandom(5 * MIB)
    received = asyncio.run(store.receive(arriving(content), limit_bytes=2**40))

    store.fetch(received.key, tmp_path / "copy", sha256=received.sha256)

    assert (tmp_path / "copy").read_bytes() == content


def test_changed_bytes_are_not_fetched(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    received = asyncio.run(store.receive(arriving(b"good"), limit_bytes=2**40))
    obstore.put(store.backend, received.key, b"rott")

    with pytest.raises(ObjectCorrupt):
        store.fetch(received.key, target / "copy", sha256=received.sha256)

    assert list(target.iterdir()) == []


def test_a_missing_object_is_told_apart_from_a_missing_store(store: Store) -> None:
    key = f"blobs/{uuid4().hex}"

    with pytest.raises(ObjectMissing):
        list(store.chunks(key))
    store.delete(key)


def test_a_deleted_object_is_gone(store: Store) -> None:
    key = receive(store, arriving(b"x"))

    store.delete(key)

    with pytest.raises(ObjectMissing):
        list(store.chunks(key))


def test_a_working_store_is_ready(store: Store) -> None:
    store.check()


def test_only_objects_of_an_age_are_listed(store: Store) -> None:
    key = receive(store, arriving(b"x"))

    assert key not in set(store.older_than(timedelta(hours=1), prefix="blobs"))


def test_an_old_file_is_put_again(tmp_path: Path) -> None:
    store = Store.open((tmp_path / "store").as_uri())
    path = tmp_path / "file"
    path.write_bytes(b"content")
    stored = tmp_path / "store" / "sha256" / store.put_file(path).sha256
    os.utime(stored, (0, 0))

    store.put_file(path)

    assert stored.stat().st_mtime > 10**9


def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "top-secret")
    store = Store.open("s3://bucket")

    with pytest.raises(StoreUnavailable) as caught:
        store.check()

    assert "top-secret" not in caught.value.detail
    assert "127.0.0.1" not in caught.value.detail


def test_a_bucket_that_does_not_exist_is_not_ready(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises((StoreUnavailable, ObjectMissing)):
        Store.open("s3://no-such-bucket").check()


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnknownStore, match="'ftp'"):
        Store.open("ftp://host/folder")


RECEIVE_UNTIL_KILLED = """
import asyncio, sys
from core.storage.objects import Store

async def endless():
    for number in range(10**9):
        yield b"x" * 2**20
        if number == 20:
            print("under way", flush=True)
        await asyncio.sleep(0.001)

asyncio.run(Store.open(sys.argv[1]).receive(endless(), limit_bytes=2**50))
"""


def test_a_process_killed_in_a_stream_leaves_nothing_visible_and_its_scratch_is_dropped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RECEIVE_UNTIL_KILLED, tmp_path.as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    process.kill()
    process.wait()
    process.stdout.close()
    store = Store.open(tmp_path.as_uri())

    assert blobs(store) == set()
    assert len(list((tmp_path / "blobs").iterdir())) == 1
    assert store.drop_scratch(older_than=timedelta(hours=1)) == 0
    assert store.drop_scratch(older_than=ANY_AGE) == 1
    assert list((tmp_path / "blobs").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_told_as_such_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = Store.open(small_disk.as_uri())
    large = tmp_path / "large"
    large.write_bytes(b"x" * 2 * MIB)

    with pytest.raises(StoreFull):
        receive(store, arriving(b"x" * 2 * MIB))
    with pytest.raises(StoreFull):
        store.put_file(large)
    with pytest.raises(StoreFull):
        store.check()

    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    receive(store, arriving(b"there is room again"))
