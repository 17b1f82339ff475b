"""The inspecting process, seen from outside: fed while an upload arrives, asked for its outcome at the end.

Its pipe is small, so that an upload goes no faster than it is read; feeding it never holds the event loop.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from core.domain import compression, reports
from core.domain.datasets import Inspection
from core.domain.loraweights import Verdict
from core.errors import Finding, StorageFull, Unavailable
from core.services import confinement

MEMORY_BYTES: Final = 2**30
"""Address space of the process; reading 1 GB took 178 MiB resident of the tutorial's rows, and 238 MiB of rows of 47 bytes."""
SLOWEST_BYTES_PER_SECOND: Final = 2**20
"""CPU time is limited so that the largest upload, unpacked, can be read at this speed."""
PIECE_BYTES: Final = 2**18
"""Larger chunks are cut: hashing 256 KiB holds the event loop for about a millisecond."""
_CRASHES: Final = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Generic[T]):
    """What an inspecting process runs, how its one line is read, and what its end without one means.

    `most_bytes` says how much a file of so many bytes may hold, unpacked; where it `copies`, the process may write so
    much to a file without a name. `crashed` is None where a crash is not laid at the file's door.
    """

    module: str
    outcome: TypeAdapter[T]
    too_slow: T
    crashed: T | None = None
    most_bytes: Callable[[int], int] = lambda limit_bytes: limit_bytes
    copies: bool = False
    memory_bytes: int = MEMORY_BYTES
    slowest_bytes_per_second: int = SLOWEST_BYTES_PER_SECOND

    def command(self, *, limit_bytes: int) -> Sequence[str]:
        """Write the command line of a process that can read `limit_bytes`."""
        most_bytes = self.most_bytes(limit_bytes)
        return confinement.command(
            self.module,
            memory_bytes=self.memory_bytes,
            cpu_seconds=60 + most_bytes // self.slowest_bytes_per_second,
            file_bytes=most_bytes if self.copies else 0,
        )


DATASETS: Final[Program[Inspection]] = Program(
    module="core.services.inspection",
    outcome=TypeAdapter(Inspection),
    too_slow=reports.refused(
        Finding(
            code="too_complex",
            message="Reading the file takes more time than a data set may.",
            hint="Upload it in parts.",
        )
    ),
    crashed=reports.refused(
        Finding(
            code="reader_crashed",
            message="The file brings its reader down, so it is damaged in a way that has no name.",
            hint="Write the file again, or send the rows as JSONL.",
        )
    ),
    most_bytes=lambda limit_bytes: max(limit_bytes, compression.most_unpacked(limit_bytes)),
    copies=True,
)
ADAPTERS: Final[Program[Verdict]] = Program(
    module="core.services.adapter_inspection",
    outcome=TypeAdapter(Verdict),
    too_slow=Verdict(Finding(code="too_complex", message="Reading the weights takes more time than an adapter may.")),
)


class InspectionFailed(Unavailable):
    """The inspecting process ended without an outcome, through no fault of the file's that we know of."""

    code = "inspection_failed"


class Inspector(Generic[T]):
    """One running process. Use as an async context manager; leaving it ends the process."""

    def __init__(self, process: asyncio.subprocess.Process, program: Program[T]) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (both are pipes)
        self._process = process
        self._program = program
        self._stdin = process.stdin
        # Read from the start: a pipe that nobody reads would block the process as it reports.
        self._report = asyncio.create_task(process.stdout.read())
        self._is_fed = True

    @staticmethod
    @contextlib.asynccontextmanager
    async def started(program: Program[T], *, limit_bytes: int) -> AsyncIterator["Inspector[T]"]:
        """Start a process that can read `limit_bytes`. Call from a thread that outlives it: it dies with the thread."""
        process = await asyncio.create_subprocess_exec(
            *program.command(limit_bytes=limit_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=confinement.ROOT,
            env=confinement.environment(),
            umask=0o077,
            start_new_session=True,
        )
        inspector = Inspector(process, program)
        try:
            yield inspector
        finally:
            await inspector._end()

    @property
    def is_decided(self) -> bool:
        """Whether the process has ended; while bytes still arrive this means that the file is refused."""
        return self._report.done()

    async def next_of(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Wait for a stream's next chunk, no longer than until the process has ended; None then, or at its end."""

        def give_up(_report: object) -> None:
            with contextlib.suppress(RuntimeError):  # the chunk came in the same turn of the loop
                waiting.reschedule(0)

        try:
            async with asyncio.timeout(None) as waiting:
                self._report.add_done_callback(give_up)
                try:
                    return await anext(chunks, None)
                finally:
                    self._report.remove_done_callback(give_up)
        except TimeoutError:
            if waiting.expired():
                return None
            raise

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

    async def outcome(self, *, patience_s: float) -> T | None:
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

    async def verdict(self) -> T:
        """End the input and wait for the report, however long it takes.

        Raises:
            InspectionFailed: The process ended without one.
        """
        self._stdin.close()
        report = await asyncio.shield(self._report)
        return self._read(report, await self._process.wait())

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._stdin.close()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._stdin.wait_closed()
        await self._report

    def _read(self, report: bytes, status: int) -> T:
        if status in _CRASHES and self._program.crashed is not None:
            return self._program.crashed
        if status == confinement.NO_ROOM:
            raise StorageFull(
                "There is no room for the copy that the file is read from; tell whoever runs this service.",
                retry_after_s=60.0,
            )
        if status == -signal.SIGXCPU:
            return self._program.too_slow
        try:
            return self._program.outcome.validate_json(report)
        except ValidationError as error:
            raise InspectionFailed(
                f"The process that reads the file ended (status {status}) before it was done; try again.",
                retry_after_s=5.0,
            ) from error
