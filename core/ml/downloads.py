"""Files of a hub's repository -> a folder: resumed where they broke off, held against the hub's own hashes.

Knows HTTP and hashes; knows no hub and no layout.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from core.domain.checkpoints import CheckpointNotFound, DamagedCheckpoint, HubUnavailable, NoRoomForBase
from core.ml.hubs import UNSEEN, RemoteFile
from core.ml.sources import chunks

ATTEMPTS: Final = 6
"""How often a file is asked for without a byte of progress."""
PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
PART: Final = ".part"


class _Interrupted(Exception):
    """The transfer broke off, and may go on."""


def client() -> httpx.Client:
    """Make a client for hubs and the storage that they redirect to; bodies come as they are stored."""
    return httpx.Client(
        follow_redirects=True,
        timeout=httpx.Timeout(30, connect=10),
        headers={"Accept-Encoding": "identity", "User-Agent": "bluelora"},
    )


def missing_bytes(files: Iterable[RemoteFile], folder: Path) -> int:
    """Count what is still to be downloaded, by sizes alone."""
    return sum(max(0, file.bytes - _size(folder / file.name) - _size(_part(folder, file))) for file in files)


def fetch(
    file: RemoteFile,
    folder: Path,
    *,
    http: httpx.Client,
    read: Callable[[int], None],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Bring one file into the folder, where it appears complete and verified; one that is there already is checked.

    Args:
        file: Which.
        folder: Must be there; an earlier download's `.part` in it is continued.
        http: From `client`.
        read: Told of the bytes that are there.
        pause: Waits between attempts, twice as long each time.

    Raises:
        DamagedCheckpoint: The bytes are not those that the hub listed.
        CheckpointNotFound: The hub no longer has the file.
        HubUnavailable: The transfer breaks off again and again.
        NoRoomForBase: The disk filled up.
    """
    path, part = folder / file.name, _part(folder, file)
    if path.exists() and _is_right(path, file):
        read(file.bytes)
        return
    with _room():
        read(_size(part))
        _transfer(file, part, http=http, read=read, pause=pause)
        if not _is_right(part, file):
            part.unlink()
            raise DamagedCheckpoint(f"{file.name} arrived with another hash than its hub lists; import again.")
        _sync(part)
        part.replace(path)


def clear(folder: Path, *, keep: str) -> Path:
    """Give the folder of one repository's content, and remove what was downloaded of others beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other.name != keep:
            shutil.rmtree(other, ignore_errors=True)
    (folder / keep).mkdir(exist_ok=True)
    return folder / keep


def _transfer(
    file: RemoteFile, part: Path, *, http: httpx.Client, read: Callable[[int], None], pause: Callable[[float], None]
) -> None:
    failures = 0
    while not part.exists() or _size(part) < file.bytes:
        before = _size(part)
        try:
            _append(file, part, http=http, read=read)
        except (httpx.TransportError, _Interrupted) as error:
            failures = failures + 1 if _size(part) <= before else 1
            if failures == ATTEMPTS:
                raise HubUnavailable(
                    f"The download of {file.name} broke off {ATTEMPTS} times in a row; import again to go on with it."
                ) from error
            pause(min(PAUSE_S * 2**failures, LONGEST_PAUSE_S))


def _append(file: RemoteFile, part: Path, *, http: httpx.Client, read: Callable[[int], None]) -> None:
    have = _size(part)
    with http.stream("GET", file.url, headers={"Range": f"bytes={have}-"} if have else {}) as answer:
        if answer.status_code in UNSEEN:
            raise CheckpointNotFound(f"The hub lists {file.name} and does not give it (status {answer.status_code}).")
        if answer.status_code not in {200, 206}:
            raise _Interrupted(f"status {answer.status_code}")
        goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        with part.open("ab" if goes_on else "wb") as out:
            # As they come: gathered into larger ones, the last would be lost when the connection is cut.
            for chunk in answer.iter_raw():
                if out.tell() + len(chunk) > file.bytes:
                    raise DamagedCheckpoint(f"{file.name} is longer than the {file.bytes} bytes that its hub lists.")
                out.write(chunk)
                read(len(chunk))
    if _size(part) < file.bytes:
        raise _Interrupted("a short body")


def _is_right(path: Path, file: RemoteFile) -> bool:
    if _size(path) != file.bytes:
        return False
    # git hashes a blob with its size in front: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.bytes, usedforsecurity=False)
    for chunk in chunks(path, file.name):
        digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)


def _part(folder: Path, file: RemoteFile) -> Path:
    return folder / f"{file.name}{PART}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoomForBase("The disk filled up during the download; make room and import again.") from error
        raise
