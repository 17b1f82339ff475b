"""A folder that appears whole or not at all: made beside its place, synced, renamed. Knows no content."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from core.domain.bases import BaseConflict
from core.domain.checkpoints import NoRoomForBase

SPARE_BYTES: Final = 64 * 2**20


def free_bytes(folder: Path) -> int:
    """Count the bytes that the folder's filesystem still takes."""
    return shutil.disk_usage(folder).free


def present_bytes(target: Path) -> int:
    """Count what of a base lies there already, finished or staged."""
    folders = (target, _stage(target))
    return sum(path.stat().st_size for folder in folders if folder.is_dir() for path in folder.iterdir())


def check_room(target: Path, needed: int, *, free: Callable[[Path], int]) -> None:
    """See that a folder of `needed` bytes will fit, before its first byte is written.

    Raises:
        NoRoomForBase: It will not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    there = free(target.parent)
    if there < needed + SPARE_BYTES:
        raise NoRoomForBase(
            f"The base takes {(needed + SPARE_BYTES) / 2**30:.2f} GiB, the disk has {there / 2**30:.2f} GiB free; "
            "make room or choose another data directory."
        )


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Lend a folder that becomes `target` when the block ends well, and is removed when it raises an error.

    What a killed or interrupted process left in it is still there for the next; a lock keeps two from writing at once.

    Raises:
        BaseConflict: Another process writes the same target, or it came into being meanwhile.
        NoRoomForBase: The disk filled up.
    """
    folder = _stage(target)
    with _locked(folder):
        try:
            yield folder
            for entry in (*folder.iterdir(), folder):
                _sync(entry)
            _rename(folder, target)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise NoRoomForBase(
                    "The disk filled up while the base was written; make room and import again."
                ) from error
            raise
        _sync(target.parent)


def _stage(target: Path) -> Path:
    return target.parent / f".{target.name}.importing"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    running = BaseConflict("Another import of this name is running; wait for it.")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise running from error
    # Another may have renamed the folder away between our mkdir and our lock.
    if not folder.exists() or folder.stat().st_ino != os.fstat(descriptor).st_ino:
        raise running


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        raise BaseConflict(f"{target.name!r} came into being meanwhile; choose another name.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
