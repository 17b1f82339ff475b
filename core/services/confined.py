"""A confined process (confinement.py) seen from a thread that waits for it: started, fed, and ended whatever happens."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence

from core.services import confinement


@contextlib.contextmanager
def started(
    module: str,
    *,
    memory_bytes: int,
    cpu_seconds: int,
    file_bytes: int,
    patience_s: float,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that ends when the block does, or after `patience_s`; it dies with this thread.

    It may copy `file_bytes` to a file without a name, as Parquet is read from its end.
    """
    process = subprocess.Popen(
        confinement.command(module, memory_bytes=memory_bytes, cpu_seconds=cpu_seconds, file_bytes=file_bytes),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=confinement.ROOT,
        env=confinement.environment(),
        umask=0o077,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    watchdog = threading.Timer(patience_s, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def feed(descriptor: int, chunks: Iterable[bytes]) -> None:
    """Write until all is written or nobody reads on, which its report explains."""
    with contextlib.suppress(BrokenPipeError):
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
