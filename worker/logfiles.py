"""Files that take a child's output: appended to by a process that knows nothing of rotation."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 8 * 2**20
KEPT: Final = 2


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """Open a log for a child to inherit, rotated first if it is long; nobody else may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rotate(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def rotate(path: Path) -> None:
    """Copy a long log aside and empty it in place: its writer holds it open and keeps appending."""
    if not path.exists() or path.stat().st_size <= MAX_BYTES:
        return
    for number in range(KEPT, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)


def forget(folder: Path, *, older_than_s: float) -> None:
    """Remove logs that nothing has been written to for this long."""
    for path in folder.glob("*.log*"):
        if time.time() - path.stat().st_mtime > older_than_s:
            path.unlink(missing_ok=True)
