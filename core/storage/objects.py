"""Bytes by key, in a folder, in S3 or in memory, through obstore.

Two kinds of keys: `blobs/<random>` for streams whose hash is known only at their end (a row holds it), and
`sha256/<hex>` for immutable files. Knows no rows and no formats.
"""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

from core.domain.adapters import AdapterFile
from core.errors import StorageFull, TooLarge, Unavailable, Unsupported
from core.storage import files

PART_BYTES: Final = 5 * 2**20
"""The smallest part that S3 takes; two are in flight, so a stream holds some 15 MiB at most."""
SMALL_BYTES: Final = 8 * 2**20
"""Up to here a file is put in one request, create-only: obstore 0.12 holds all of a create-only put in memory."""
FRESH: Final = timedelta(hours=12)
"""An object older than this is put again rather than trusted to stay: what sweeps orphans may be after it."""
READ_BYTES: Final = 4 * 2**20
LITTLE_SPACE_BYTES: Final = 64 * 2**20
PUTS: Final = 3
_SCRATCH_FULL: Final = ("os error 28", "os error 122", "No space left", "StorageFull", "XMinioStorageFull")


class ObjectTooLarge(TooLarge):
    """A stream went over its limit; nothing of it is kept."""

    code = "file_too_large"


class ObjectMissing(Unavailable):
    """A row points to bytes that are not there."""

    code = "object_missing"


class ObjectCorrupt(Unavailable):
    """Stored bytes are not those that were stored."""

    code = "object_corrupt"


class StoreFull(StorageFull):
    """The object store has no room for the bytes."""

    code = "storage_full"


class StoreUnavailable(Unavailable):
    """The object store does not answer, or refuses us."""

    code = "storage_unavailable"


class UnknownStore(Unsupported):
    """A storage URL of a kind that is not served."""

    code = "unknown_store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A stream that lies complete under `key`."""

    key: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Store:
    """One object store. `folder` is set for `file://`, where we sync to disk ourselves: obstore never does."""

    backend: ObjectStore
    folder: Path | None = None

    @classmethod
    def open(cls, url: str) -> Self:
        """Open `file:///folder`, `s3://bucket/prefix` (keys from the usual AWS_* environment) or `memory://`.

        A folder is made; nothing is asked of S3 yet. `memory://` is one store a process.

        Raises:
            UnknownStore: Another scheme.
        """
        parts = urlsplit(url)
        match parts.scheme:
            case "file":
                folder = Path(unquote(parts.path))
                for child in ("blobs", "sha256"):
                    files.make_folder(folder / child)
                return cls(LocalStore(folder), folder)
            case "memory":
                return cls(_memory())
            case "s3":
                return cls(_s3(url))
            case _:
                raise UnknownStore(
                    f"Storage URLs start with file://, s3:// or memory://, not {parts.scheme!r}.", param="storage_url"
                )

    async def receive(self, chunks: AsyncIterator[bytes], *, limit_bytes: int) -> Received:
        """Store a stream while it arrives, hashed and counted; memory stays flat whatever its size.

        A stream that ends early, fails, is cancelled or goes over the limit leaves nothing that can be seen. What
        `chunks` raises comes out unchanged.

        Raises:
            ObjectTooLarge: More than `limit_bytes` arrived.
            StoreFull: No room.
            StoreUnavailable: The store does not answer.
        """
        key = f"blobs/{secrets.token_hex(16)}"
        tap = _Tap(chunks, limit_bytes)
        try:
            with _typed():
                # Never mode="create" here: obstore 0.12 would hold the whole stream in memory.
                await obstore.put_async(self.backend, key, tap.read(), chunk_size=PART_BYTES, max_concurrency=2)
        except Exception as error:
            if tap.failure is not None and tap.failure is not error:
                raise tap.failure from None
            raise
        await asyncio.to_thread(self._sync, key)
        return Received(key=key, sha256=tap.digest.hexdigest(), bytes=tap.size)

    def put_file(self, path: Path) -> AdapterFile:
        """Store an immutable file under its hash; one that is there already is not sent again.

        Raises:
            StoreFull: No room.
            StoreUnavailable: The store does not answer.
        """
        size = path.stat().st_size
        if size <= SMALL_BYTES:
            return self.put(path.name, path.read_bytes())
        digest = files.sha256_of(path)
        self._put_large(f"sha256/{digest}", path, size)
        return AdapterFile(name=path.name, sha256=digest, bytes=size)

    def put(self, name: str, content: bytes) -> AdapterFile:
        """Store what a small file holds under its hash; raises as `put_file` does."""
        digest = hashlib.sha256(content).hexdigest()
        self._put_small(f"sha256/{digest}", content)
        return AdapterFile(name=name, sha256=digest, bytes=len(content))

    def keep(self, received: Received, *, name: str) -> AdapterFile:
        """Make a received stream an immutable file under its hash; the stream's own key is gone then.

        Raises:
            ObjectMissing: The stream is not there any more.
            StoreFull: No room.
            StoreUnavailable: The store does not answer.
        """
        key = f"sha256/{received.sha256}"
        if self._is_fresh(key, received.bytes):
            self.delete(received.key)
        else:
            with _typed():
                obstore.rename(self.backend, received.key, key)
            self._sync(key)
        return AdapterFile(name=name, sha256=received.sha256, bytes=received.bytes)

    def fetch(self, key: str, path: Path, *, sha256: str) -> Path:
        """Copy an object to a local file, which appears complete and verified or not at all.

        Raises:
            ObjectMissing: No such object.
            ObjectCorrupt: Its bytes have another hash.
            StoreUnavailable: The store does not answer.
        """
        with files.appearing(path) as file:
            digest = hashlib.sha256()
            for chunk in self.chunks(key):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != sha256:
                raise ObjectCorrupt("Stored bytes have changed: their hash is not the one on record.")
        return path

    def chunks(self, key: str, *, start: int = 0) -> Iterator[bytes]:
        """Read an object piece by piece from byte `start` on, by ranges: a broken connection costs one range.

        Raises:
            ObjectMissing: No such object.
            StoreUnavailable: The store does not answer.
        """
        with _typed():
            size = obstore.head(self.backend, key)["size"]
        for at in range(start, size, READ_BYTES):
            yield self.read(key, start=at, end=min(at + READ_BYTES, size))

    def read(self, key: str, *, start: int, end: int) -> bytes:
        """Read an object's bytes from `start` up to `end`, which must lie within it.

        Raises:
            ObjectMissing: No such object.
            StoreUnavailable: The store does not answer.
        """
        with _typed():
            return obstore.get_range(self.backend, key, start=start, end=end).to_bytes()

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is no error.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        try:
            with _typed():
                obstore.delete(self.backend, key)
        except ObjectMissing:
            return

    def move(self, key: str, to: str) -> bool:
        """Give an object another key; False when it is not there.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        try:
            with _typed():
                obstore.rename(self.backend, key, to)
        except ObjectMissing:
            return False
        return True

    def is_older(self, key: str, age: timedelta) -> bool:
        """Say whether an object is there and older than `age`, as of now.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        try:
            with _typed():
                found = obstore.head(self.backend, key)
        except ObjectMissing:
            return False
        return found["last_modified"] < datetime.now(UTC) - age

    def older_than(self, age: timedelta, *, prefix: str) -> Iterator[str]:
        """List the keys under a prefix whose objects are older than `age`.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        before = datetime.now(UTC) - age
        with _typed():
            for batch in obstore.list(self.backend, prefix=prefix):
                yield from (entry["path"] for entry in batch if entry["last_modified"] < before)

    def drop_scratch(self, *, older_than: timedelta) -> int:
        """Remove what streams of killed processes left in a folder, which no listing shows; gives how many."""
        if self.folder is None:
            return 0
        before = datetime.now(UTC).timestamp() - older_than.total_seconds()
        stale = [path for path in self.folder.glob("*/*#*") if path.stat().st_mtime < before]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def check(self) -> None:
        """Say whether the store can take bytes, at the cost of one small request.

        Raises:
            StoreFull: Less than 64 MiB are left.
            StoreUnavailable: It does not answer, or may not be written.
        """
        with _typed():
            obstore.list_with_delimiter(self.backend, prefix="ready")
        if self.folder is None:
            return
        if not os.access(self.folder, os.W_OK):
            raise StoreUnavailable("The storage folder can't be written.")
        space = os.statvfs(self.folder)
        if space.f_bavail * space.f_frsize < LITTLE_SPACE_BYTES:
            raise StoreFull("The storage folder's disk is full.")

    def _put_small(self, key: str, content: bytes) -> None:
        def put() -> bool:
            try:
                obstore.put(self.backend, key, content, mode="create")
            except AlreadyExistsError:
                if self._is_fresh(key, len(content)):
                    return False
                obstore.put(self.backend, key, content)
            return True

        self._durably(put, key)

    def _put_large(self, key: str, path: Path, size: int) -> None:
        def put() -> bool:
            if self._is_fresh(key, size):
                return False
            obstore.put(self.backend, key, path, chunk_size=PART_BYTES, max_concurrency=2)
            return True

        self._durably(put, key)

    def _durably(self, put: Callable[[], bool], key: str) -> None:
        """Put an object and, if `put` says that it had to, sync it.

        It is put anew where a sweep that saw an old one has set it aside in between (core/services/garbage.py).
        """
        for _ in range(PUTS):
            with _typed():
                if not put():
                    return
            try:
                self._sync(key)
            except ObjectMissing:
                continue
            return
        raise StoreUnavailable("The bytes were set aside again and again; try again.", retry_after_s=2.0)

    def _is_fresh(self, key: str, size: int) -> bool:
        try:
            with _typed():
                found = obstore.head(self.backend, key)
        except ObjectMissing:
            return False
        return found["size"] == size and datetime.now(UTC) - found["last_modified"] < FRESH

    def _sync(self, key: str) -> None:
        if self.folder is None:
            return
        try:
            with _typed():
                files.sync(self.folder / key)
        except (StoreFull, StoreUnavailable):
            # After a failed fsync the kernel may hold pages that never reached the disk: write anew, never again.
            self.delete(key)
            raise


class _Tap:
    """A stream that is hashed and counted on its way, and remembers why it broke off."""

    def __init__(self, chunks: AsyncIterator[bytes], limit_bytes: int) -> None:
        self._chunks = chunks
        self._limit = limit_bytes
        self.digest = hashlib.sha256()
        self.size = 0
        self.failure: Exception | None = None

    async def read(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._chunks:
                self._count(chunk)
                self.digest.update(chunk)
                yield chunk
        except Exception as error:
            self.failure = error
            raise

    def _count(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size > self._limit:
            raise ObjectTooLarge(f"The upload is larger than {self._limit} bytes.", param="file")


@cache
def _memory() -> MemoryStore:
    return MemoryStore()


def _s3(url: str) -> S3Store:
    # Options given here hide those of the environment, so AWS_ALLOW_HTTP would go unheard; an endpoint that is
    # spelled http:// says as much.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return S3Store.from_url(
        url,
        client_options={
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=60),
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=60)},
    )


@contextmanager
def _typed() -> Iterator[None]:
    """Turn what obstore and the system raise into our kinds; details stay in the cause, as they may hold paths."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing("Stored bytes are missing.") from error
    except (BaseError, OSError) as error:
        if any(sign in str(error) for sign in _SCRATCH_FULL) or getattr(error, "errno", 0) in {28, 122}:
            raise StoreFull("There is no room for the bytes; free some space, then send them again.") from error
        raise StoreUnavailable("The object store does not answer; try again.", retry_after_s=2.0) from error
