"""Processes that read what strangers sent: without credentials, with little memory and time, gone with their parent."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import core

ROOT: Final = Path(core.__file__).parents[1]
_PR_SET_PDEATHSIG: Final = 1
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")


def command(module: str, *, memory_bytes: int, cpu_seconds: int) -> Sequence[str]:
    """Write the command line of a module that calls `confine` first."""
    return (sys.executable, "-m", module, str(os.getpid()), str(memory_bytes), str(cpu_seconds))


def environment() -> Mapping[str, str]:
    """What such a process may know of ours; libraries in it start no threads of their own."""
    ours = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return ours | {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def confine() -> None:
    """Take on what the command line says; a process whose parent has gone meanwhile ends."""
    parent, memory_bytes, cpu_seconds = (int(word) for word in sys.argv[1:])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(nothing, (0, 0))
