"""How an inspecting process gives up what it does not need, before it reads a byte of a user's.

Started as `python -m MODULE PARENT_PID MEMORY_BYTES CPU_SECONDS FILE_BYTES` (core/services/inspectors.py). It holds no
credentials, may use so much memory and time, and dies with whoever started it. A file that it writes, such as the copy
without a name that Parquet needs, may have FILE_BYTES; with 0 it can write none.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Final

READ_BYTES: Final = 2**18
_PR_SET_PDEATHSIG: Final = 1


def enter() -> None:
    """Tie this process to its parent and limit it, as its arguments say."""
    parent, memory_bytes, cpu_seconds, file_bytes = (int(word) for word in sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def stdin() -> Iterator[bytes]:
    """Read what there is to inspect, piece by piece."""
    while chunk := os.read(0, READ_BYTES):
        yield chunk


def report(line: str) -> None:
    """Say the outcome, one line of JSON."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
