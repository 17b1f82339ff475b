"""The outlining process, seen from outside: one for each plan, few at a time, and what it said is remembered.

Blocks; call it from a thread that may wait.
"""

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from pydantic import ValidationError

from core.domain import compression
from core.domain.bases import BaseUnusable
from core.domain.checkpoints import DamagedCheckpoint, NoChatFormat, UnsupportedCheckpoint
from core.domain.datasets import InvalidDataset
from core.domain.generation import InvalidMessages
from core.domain.plans import Outline
from core.domain.splits import CannotSplit
from core.domain.training import TrainSpec
from core.errors import Invalid, Overloaded, Problem, Unavailable
from core.services import confined
from core.services.planning import REPORT, REQUEST, Refusal, Request
from core.text.examples import OverlongRows
from core.text.packing import ExampleTooLong
from core.text.prepared import NoRowsLeft, NoValidationRows
from core.text.shares import Size

MEMORY_BYTES: Final = 2 * 2**30
"""Address space of the process; 4 million characters of tutorial-like rows took 340 MiB resident."""
PATIENCE_S: Final = 60.0
"""Wall time after which the process is ended."""
AT_ONCE: Final = 2
RETRY_AFTER_S: Final = 5.0
KEPT: Final = 32
IRRELEVANT: Final = frozenset({"name", "metadata", "priority", "dataset", "validation_dataset", "base_model"})
"""Fields that change nothing of an outline; data and base are told apart by their hashes."""


class TooManyPlans(Overloaded):
    """As many plans are being made as this process makes at once."""

    code = "too_many_plans"


class TooComplex(Invalid):
    """The data set takes more memory or time to plan than it may."""

    code = "too_complex"


class PlanFailed(Unavailable):
    """The outlining process ended without an outline, through no fault of the data that we know of."""

    code = "plan_failed"


_REFUSALS: Final[Mapping[str, type[Problem]]] = {
    kind.code: kind
    for kind in (
        CannotSplit,
        ExampleTooLong,
        InvalidDataset,
        InvalidMessages,
        NoChatFormat,
        NoRowsLeft,
        NoValidationRows,
        OverlongRows,
        TooComplex,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set to be read: its hash and size, what validation counted, and a call that gives its bytes."""

    sha256: str
    size_bytes: int
    size: Size
    chunks: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What shall be outlined. `folder` gives the folder with the base's text files."""

    spec: TrainSpec
    fingerprint: str
    parameters: int
    folder: Callable[[], os.PathLike[str]]
    data: Source
    validation: Source | None

    @property
    def most_bytes(self) -> int:
        """The most that a copy of one of its files takes, unpacked."""
        sources = (self.data,) if self.validation is None else (self.data, self.validation)
        largest = max(source.size_bytes for source in sources)
        return max(largest, compression.most_unpacked(largest))

    @property
    def key(self) -> str:
        """The same for requests that have the same outline."""
        hashes = (self.fingerprint, self.data.sha256, self.validation.sha256 if self.validation else "")
        return hashlib.sha256(
            "\n".join((*hashes, self.spec.model_dump_json(exclude=set(IRRELEVANT)))).encode()
        ).hexdigest()


class Planners:
    """Outlines trainings. Threads may share it."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(AT_ONCE)
        self._known: dict[str, Outline] = {}
        self._lock = threading.Lock()

    def outline(self, wanted: Wanted) -> Outline:
        """Give the outline of a training, from memory if it was asked for before.

        Raises:
            TooManyPlans: Others are being made; come back.
            TooComplex: It takes more memory or time than it may.
            BaseUnusable: The base's files can't be read.
            Problem: What the trainer would say of the data and the spec; see core/text/prepared.py.
            PlanFailed: The process ended without an outline.
            Unavailable: The store does not answer.
        """
        key = wanted.key
        if (known := self._recalled(key)) is not None:
            return known
        # Who waits here holds one of the few threads that every request needs.
        if not self._turns.acquire(blocking=False):
            raise TooManyPlans(f"{AT_ONCE} plans are being made; try again in a moment.", retry_after_s=RETRY_AFTER_S)
        try:
            made = _outlined(wanted)
        finally:
            self._turns.release()
        with self._lock:
            self._known[key] = made
            while len(self._known) > KEPT:
                del self._known[next(iter(self._known))]
        return made

    def _recalled(self, key: str) -> Outline | None:
        with self._lock:
            found = self._known.pop(key, None)
            if found is not None:
                self._known[key] = found
        return found


def _outlined(wanted: Wanted) -> Outline:
    """Run one process to its end.

    Raises:
        Problem: As `Planners.outline`, but for TooManyPlans.
    """
    folder = wanted.folder()
    with contextlib.ExitStack() as stack:
        reading, outgoing = None, None
        if wanted.validation is not None:
            reading, writing = os.pipe()
            outgoing = stack.enter_context(os.fdopen(writing, "wb", buffering=0))
        try:
            process = stack.enter_context(
                confined.started(
                    "core.services.planning",
                    memory_bytes=MEMORY_BYTES,
                    cpu_seconds=int(PATIENCE_S),
                    file_bytes=wanted.most_bytes,
                    patience_s=PATIENCE_S,
                    pass_fds=() if reading is None else (reading,),
                )
            )
        finally:
            if reading is not None:
                os.close(reading)
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        request = Request(
            spec=wanted.spec,
            base_dir=os.fspath(folder),
            parameters=wanted.parameters,
            size=wanted.data.size,
            validation_size=None if wanted.validation is None else wanted.validation.size,
            validation_fd=reading,
        )
        confined.feed(process.stdin.fileno(), chain([REQUEST.dump_json(request) + b"\n"], wanted.data.chunks()))
        process.stdin.close()
        if wanted.validation is not None and outgoing is not None:
            confined.feed(outgoing.fileno(), wanted.validation.chunks())
            outgoing.close()
        return _read(process.stdout.read(), process.wait())


def _read(report: bytes, status: int) -> Outline:
    try:
        read = REPORT.validate_json(report)
    except ValidationError as error:
        if status in {-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGABRT}:
            raise TooComplex(
                f"Planning takes more than {PATIENCE_S:.0f} s or {MEMORY_BYTES // 2**30} GiB; plan with a part of the data.",
                param="dataset",
            ) from error
        raise PlanFailed(f"The process that plans ended (status {status}); try again.", retry_after_s=5.0) from error
    if isinstance(read, Outline):
        return read
    raise _problem(read)


def _problem(refusal: Refusal) -> Problem:
    if refusal.code in {DamagedCheckpoint.code, UnsupportedCheckpoint.code}:
        return BaseUnusable(f"The files of the base can't be used: {refusal.detail}")
    kind = _REFUSALS.get(refusal.code, PlanFailed)
    return kind(refusal.detail, param=refusal.param, findings=refusal.findings)
