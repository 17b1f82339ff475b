"""Start another program that dies with us: `python core/tether.py PARENT_PID OOM_SCORE_ADJ PROGRAM [ARGUMENT …]`.

Linux sends the death signal when the *thread* that started this process ends, so start it from a main thread.
Run as a file and with the standard library alone, so that it costs milliseconds and needs no search path; the
settings survive `exec`, which is why any program can be tethered without knowing of it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2


def command(argv: Sequence[str], *, parent_pid: int | None = None, oom_score_adj: int = 0) -> list[str]:
    """Wrap a command line so that the program is killed when its parent dies.

    Args:
        argv: The program, by absolute path, and its arguments.
        parent_pid: Who that is; None is this process. Another only for a process that replaces itself by `exec`.
        oom_score_adj: How much likelier than us the kernel shall pick it when memory runs out, 0 to 1000.
    """
    parent = str(parent_pid or os.getpid())
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), parent, str(oom_score_adj), *argv]


def parent_tied_to() -> int | None:
    """Say whose death would kill the calling thread's process; None when it is not tethered.

    The tie belongs to the main thread: it is lost when another thread calls `exec`, and has to be made anew.
    """
    signal_number = ctypes.c_int(0)
    _prctl(PR_GET_PDEATHSIG, ctypes.byref(signal_number))
    return os.getppid() if signal_number.value else None


def main(argv: Sequence[str]) -> None:
    """Tie this process to its parent, then become the program.

    Raises:
        OSError: The kernel refused the tie, or the program does not exist.
    """
    parent_pid, oom_score_adj, program = int(argv[0]), int(argv[1]), argv[2]
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the tie was made; then nobody will ever send the signal.
    if os.getppid() != parent_pid:
        sys.exit("the parent process died first")
    if oom_score_adj:
        Path("/proc/self/oom_score_adj").write_text(str(oom_score_adj))
    os.execv(program, list(argv[2:]))  # noqa: S606  (argv is the supervisor's, and no shell is wanted)


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    main(sys.argv[1:])
