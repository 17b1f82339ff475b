"""Pages of Parquet: found by a confined process, which is handed the ranges of the stored bytes that it asks for.

So this process never decodes them, copies no file, and holds one range at a time. Blocks; call it from a thread that may
wait.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from core.domain import compression
from core.domain.datasets import InvalidDataset
from core.domain.excerpts import PageTooDeep
from core.errors import Overloaded, Unavailable
from core.services import confined
from core.services.paging import ASK_BYTES, REQUEST, SAID, Ask, Leaf, Refusal, Request

MEMORY_BYTES: Final = 2**30
CPU_SECONDS: Final = 10
PATIENCE_S: Final = 20.0
"""Wall time after which the process is killed; a busy machine needs a few seconds to start it."""
AT_ONCE: Final = 4
RETRY_AFTER_S: Final = 1.0
LEAF_BYTES: Final = 16 * 2**20
"""The longest line that is read. Control characters take six bytes each, and a page holds at most two million characters."""
Read = Callable[[int, int], bytes]
"""Gives the bytes from one place up to another."""


class TooManyPages(Overloaded):
    """As many pages of Parquet are being read as this process reads at once."""

    code = "too_many_pages"


class PageFailed(Unavailable):
    """The process that reads ended without a page, through no fault of the data that we know of."""

    code = "page_failed"


class Pagers:
    """Finds pages, few at a time. Threads may share it."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(AT_ONCE)

    def page(self, wanted: Request, read: Read) -> Leaf:
        """Find a page.

        Raises:
            TooManyPages: Others are being read; come back.
            PageTooDeep: It takes more memory or CPU time than it may.
            InvalidDataset: The file can't be read any more.
            PageFailed: The process ended without one, or was not done in time.
            Problem: What `read` raises.
        """
        # Who waits here holds one of the few threads that every request needs.
        if not self._turns.acquire(blocking=False):
            raise TooManyPages(f"{AT_ONCE} pages are being read; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        try:
            with confined.started(
                "core.services.paging",
                memory_bytes=MEMORY_BYTES,
                cpu_seconds=CPU_SECONDS,
                file_bytes=compression.most_unpacked(wanted.size),
                patience_s=PATIENCE_S,
            ) as process:
                return _served(process, wanted, read)
        finally:
            self._turns.release()


def _served(process: subprocess.Popen[bytes], wanted: Request, read: Read) -> Leaf:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    stdin = process.stdin.fileno()
    confined.feed(stdin, [REQUEST.dump_json(wanted) + b"\n"])
    with os.fdopen(process.stdout.fileno(), "rb", closefd=False) as lines:
        while line := lines.readline(LEAF_BYTES):
            said = _understood(line)
            if isinstance(said, Leaf):
                return said
            if isinstance(said, Refusal):
                raise _refused(said)
            if not (said.at >= 0 and 0 < said.size <= ASK_BYTES and said.at + said.size <= wanted.size):
                raise PageFailed("The process that reads asked for what is not there; try again.", retry_after_s=5.0)
            confined.feed(stdin, [read(said.at, said.at + said.size)])
    # A process that is killed ran out of patience or the machine's memory: the store or the machine is slow.
    if process.wait() == -signal.SIGXCPU:
        raise PageTooDeep(
            "Finding the page takes more time than it may. Upload the file as plain JSONL, or with smaller row groups.",
            param="after",
        )
    raise PageFailed("The process that reads ended before it was done; try again.", retry_after_s=5.0)


def _understood(line: bytes) -> Ask | Leaf | Refusal:
    try:
        return SAID.validate_json(line)
    except ValidationError as error:
        raise PageFailed("The process that reads was cut off; try again.", retry_after_s=5.0) from error


def _refused(refusal: Refusal) -> PageTooDeep | InvalidDataset:
    if refusal.findings:
        return InvalidDataset(refusal.detail, param="file", findings=refusal.findings)
    return PageTooDeep(f"{refusal.detail} Upload the file as plain JSONL, or with smaller row groups.", param="after")
