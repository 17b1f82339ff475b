"""Private folders of attempts, below the data directory. A lock says which are in use, and goes with its process."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOCK: Final = ".lock"


@contextmanager
def folder(root: Path, name: str) -> Iterator[Path]:
    """Make an empty folder that is removed when the block ends.

    Raises:
        OSError: It can't be made, or another process holds it.
    """
    path = root / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    descriptor = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path, *, older_than_s: float) -> list[str]:
    """Remove folders that no living process holds; names of those removed."""
    return [path.name for path in sorted(root.glob("*")) if path.is_dir() and _abandoned(path, older_than_s)]


def _abandoned(path: Path, older_than_s: float) -> bool:
    if time.time() - path.stat().st_mtime < older_than_s:
        return False
    descriptor = os.open(path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)
