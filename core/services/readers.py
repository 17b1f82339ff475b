"""A confined process that reads a user's bytes and reports one JSON line, seen from outside.

Its pipe is small, so that bytes go no faster than they are read; feeding it never holds the event loop.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

import core
from core.errors import Unavailable

PIECE_BYTES: Final = 2**18
"""Larger chunks are cut: hashing 256 KiB holds the event loop for about a millisecond."""
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
# Each thread of a library for matrices would reserve address space, of which there is little.
_ALONE: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_ROOT: Final = Path(core.__file__).parents[1]

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Generic[Report]):
    """What a process does: the module to run, its limits, and what it reports.

    CPU time is limited so that the largest file can be read at `slowest_bytes_per_second`; `too_slow` is the report
    on one that is not, where that is the file's fault.
    """

    module: str
    report: TypeAdapter[Report]
    memory_bytes: int
    slowest_bytes_per_second: int
    too_slow: Report | None = None


class ReaderFailed(Unavailable):
    """The process ended without a report, through no fault of the file's that we know of."""

    code = "inspection_failed"

    def __init__(self, status: int) -> None:
        super().__init__(
            f"The process that reads the file ended (status {status}) before it was done; try again.", retry_after_s=5.0
        )


class Reader(Generic[Report]):
    """One running process. Use as an async context manager; leaving it ends the process."""

    def __init__(self, process: asyncio.subprocess.Process, reading: Reading[Report]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (both are pipes)
        self._process = process
        self._reading = reading
        self._stdin = process.stdin
        # Read from the start: a pipe that nobody reads would block the process as it reports.
        self._report = asyncio.create_task(process.stdout.read())
        self._is_fed = True

    @classmethod
    @contextlib.asynccontextmanager
    async def started(
        cls, reading: Reading[Report], *arguments: str, limit_bytes: int
    ) -> AsyncIterator["Reader[Report]"]:
        """Start a process that can read `limit_bytes`. Call from a thread that outlives it: it dies with the thread."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            reading.module,
            str(os.getpid()),
            str(reading.memory_bytes),
            str(60 + limit_bytes // reading.slowest_bytes_per_second),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_ROOT,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ALONE,
            umask=0o077,
            start_new_session=True,
        )
        reader = cls(process, reading)
        try:
            yield reader
        finally:
            await reader._end()

    @property
    def is_decided(self) -> bool:
        """Whether the process has ended; while bytes still arrive this means that it has seen enough."""
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

    async def outcome(self, *, patience_s: float) -> Report | None:
        """End the input and wait for the report; None if it is not there within `patience_s`.

        Raises:
            ReaderFailed: The process ended without one.
        """
        if not self._is_fed:
            return None
        try:
            async with asyncio.timeout(patience_s):
                return await self.verdict()
        except TimeoutError:
            return None

    async def verdict(self) -> Report:
        """End the input and wait for the report, however long it takes.

        Raises:
            ReaderFailed: The process ended without one.
        """
        self._stdin.close()
        report = await asyncio.shield(self._report)
        status = await self._process.wait()
        if status == -signal.SIGXCPU and self._reading.too_slow is not None:
            return self._reading.too_slow
        try:
            return self._reading.report.validate_json(report)
        except ValidationError as error:
            raise ReaderFailed(status) from error

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._stdin.wait_closed()
        await self._report
