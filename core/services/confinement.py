"""How a process that reads users' bytes is started, and how it gives up what it does not need before the first one.

Started as `python -m MODULE PARENT_PID MEMORY_BYTES CPU_SECONDS FILE_BYTES` (see inspectors.py, confined.py). It holds no
credentials, may use so much memory and time, and dies with whoever started it. A file that it writes, such as the copy
without a name that Parquet needs, may have FILE_BYTES; with 0 it can write none.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import core

READ_BYTES: Final = 2**18
NO_ROOM: Final = 28
"""Exit status of a process that could not copy what it reads."""
ROOT: Final = Path(core.__file__).parents[1]
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", "TMPDIR")
_PR_SET_PDEATHSIG: Final = 1


def command(module: str, *, memory_bytes: int, cpu_seconds: int, file_bytes: int = 0) -> Sequence[str]:
    """Write the command line of a module that calls `enter` first."""
    limits = (os.getpid(), memory_bytes, cpu_seconds, file_bytes)
    return (sys.executable, "-m", module, *map(str, limits))


def environment() -> Mapping[str, str]:
    """What such a process may know of ours; libraries in it start no threads of their own.

    Arrow's own allocators reserve more addresses than such a process may have.
    """
    ours = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return ours | {
        "RAYON_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }


def enter() -> None:
    """Tie this process to its parent and limit it, as its arguments say."""
    parent, memory_bytes, cpu_seconds, file_bytes = (int(word) for word in sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # SIGXCPU comes at the first limit, which says what it was; at the second SIGKILL, which would not.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def noting_full_disks() -> Iterator[None]:
    """End this process with NO_ROOM where a copy finds none, which is no fault of the file's."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            sys.exit(NO_ROOM)
        raise


def stdin() -> Iterator[bytes]:
    """Read what there is to inspect, piece by piece."""
    yield from chunks(0)


def chunks(descriptor: int) -> Iterator[bytes]:
    """Read a descriptor to its end, piece by piece."""
    while chunk := os.read(descriptor, READ_BYTES):
        yield chunk


def first_line() -> bytes:
    """Read stdin byte by byte to the first line feed, so that what follows stays in the pipe."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def report(line: str) -> None:
    """Say the outcome, one line of JSON."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
