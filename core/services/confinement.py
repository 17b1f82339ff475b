"""What a process that reads users' bytes may do: little, and only while its parent lives."""

import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Final

READ_BYTES: Final = 2**18
_PR_SET_PDEATHSIG: Final = 1


def enter(parent: int, *, memory_bytes: int, cpu_seconds: int) -> None:
    """Die with `parent`, and from here on use no more memory and time than this, and write no file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(nothing, (0, 0))
    # Rows make no cycles, and are held by the thousand: looking for some would take a tenth of the time.
    gc.disable()


def stdin() -> Iterator[bytes]:
    """Read standard input in pieces."""
    while chunk := os.read(0, READ_BYTES):
        yield chunk
