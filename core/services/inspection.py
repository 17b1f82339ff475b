"""The process that looks at an upload: bytes on stdin, one JSON line on stdout, nothing else in reach.

`python -m core.services.inspection PARENT_PID MEMORY_BYTES CPU_SECONDS`. It holds no credentials, opens no file, may use so
much memory and time, and dies with whoever started it. It stops reading as soon as the file is refused.
"""

import ctypes
import dataclasses
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Final

from core.domain import inspections, reports
from core.domain.datasets import Inspection
from core.errors import Finding

READ_BYTES: Final = 2**18
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Inspect stdin."""
    parent, memory_bytes, cpu_seconds = (int(word) for word in sys.argv[1:])
    _die_with(parent)
    _limit(memory_bytes, cpu_seconds)
    # Rows make no cycles, and are held by the thousand: looking for some would take a tenth of the time.
    gc.disable()
    try:
        outcome = inspections.inspect(_stdin())
    except (MemoryError, RecursionError):
        outcome = _too_complex()
    sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    sys.stdout.flush()


def _stdin() -> Iterator[bytes]:
    while chunk := os.read(0, READ_BYTES):
        yield chunk


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(nothing, (0, 0))


def _too_complex() -> Inspection:
    return reports.refused(
        Finding(
            code="too_complex",
            message="Reading the file takes more memory than a data set may.",
            hint="Upload it in parts.",
        )
    )


if __name__ == "__main__":
    main()
