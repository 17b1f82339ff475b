"""The inspecting process, seen from outside: fed while an upload arrives, asked for its outcome at the end.

Its pipe is small, so that an upload goes no faster than it is read; feeding it never holds the event loop.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

import core
from core.domain import reports
from core.domain.datasets import Inspection
from core.errors import Finding, Unavailable

MEMORY_BYTES: Final = 2**30
"""Address space of the process; reading 1 GB of the shortest tutorial-like rows took 76 MiB resident."""
SLOWEST_BYTES_PER_SECOND: Final = 2**20
"""CPU time is limited so that the largest upload can be read at this speed."""
PIECE_BYTES: Final = 2**18
"""Larger chunks are cut: hashing 256 KiB holds the event loop for about a millisecond."""
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
_OUTCOME: Final = TypeAdapter(Inspection)
_ROOT: Final = Path(core.__file__).parents[1]


class InspectionFailed(Unavailable):
    """The inspecting process ended without an outcome, through no fault of the file's that we know of."""

    code = "inspection_failed"


class Inspector:
    """One running process. Use as an async context manager; leaving it ends the process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (both are pipes)
        self._process = process
        self._stdin = process.stdin
        # Read from the start: a pipe that nobody reads would block the process as it reports.
        self._report = asyncio.create_task(process.stdout.read())
        self._is_fed = True

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, *, limit_bytes: int) -> AsyncIterator["Inspector"]:
        """Start a process that can read `limit_bytes`. Call from a thread that outlives it: it dies with the thread."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "core.services.inspection",
            str(os.getpid()),
            str(MEMORY_BYTES),
            str(60 + limit_bytes // SLOWEST_BYTES_PER_SECOND),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            umask=0o077,
            start_new_session=True,
        )
        inspector = cls(process)
        try:
            yield inspector
        finally:
            await inspector._end()

    @property
    def is_decided(self) -> bool:
        """Whether the process has ended; while bytes still arrive this means that the file is refused."""
        return self._report.done()

    async def feed(self, chunk: bytes, *, patience_s: float) -> None:
        """Hand bytes over; waits while the pipe is full.

        A process that takes nothing for `patience_s` gets no more: `outcome` then says None, and somebody reads
        the stored bytes later.
        """
        if not self._is_fed or self.is_decided:
            return
        try:
            self._stdin.write(chunk)
            async with asyncio.timeout(patience_s):
                await self._stdin.drain()
        except TimeoutError:
            self._is_fed = False
        except (BrokenPipeError, ConnectionResetError):
            # It stopped reading because it has seen enough, or it died; its report says which.
            return

    async def outcome(self, *, patience_s: float) -> Inspection | None:
        """End the input and wait for the report; None if it is not there within `patience_s`.

        Raises:
            InspectionFailed: The process ended without one.
        """
        if not self._is_fed:
            return None
        try:
            async with asyncio.timeout(patience_s):
                return await self.verdict()
        except TimeoutError:
            return None

    async def verdict(self) -> Inspection:
        """End the input and wait for the report, however long it takes.

        Raises:
            InspectionFailed: The process ended without one.
        """
        self._stdin.close()
        report = await asyncio.shield(self._report)
        return _read(report, await self._process.wait())

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._stdin.wait_closed()
        await self._report


def _read(report: bytes, status: int) -> Inspection:
    if status == -signal.SIGXCPU:
        return reports.refused(
            Finding(
                code="too_complex",
                message="Reading the file takes more time than a data set may.",
                hint="Upload it in parts.",
            )
        )
    try:
        return _OUTCOME.validate_json(report)
    except ValidationError as error:
        raise InspectionFailed(
            f"The process that reads the file ended (status {status}) before it was done; try again.",
            retry_after_s=5.0,
        ) from error
