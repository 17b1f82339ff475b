"""Real workers for tests: `python -m worker` as production runs it, on a workshop and a Valkey."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.domain.workers import WorkerInfo
from core.services import workers
from tests.support.workshops import Workshop

PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
HEARTBEAT_S = 1.0
QUICK = {
    "BLUELORA_LEASE_S": "5",
    "BLUELORA_HEARTBEAT_S": str(HEARTBEAT_S),
    "BLUELORA_SWEEP_S": "0.5",
    "BLUELORA_TRAINER_THREADS": "1",
}


class WorkerProcess:
    """One worker, its log, and what can be seen of it from outside."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, shop: Workshop) -> None:
        self.process = process
        self.log = log
        self.shop = shop

    def ready(self) -> bool:
        """Say whether it waits for hints: the broker knows of a consumer only then."""
        return any("ready" in line["message"] for line in self.lines())

    def registered(self) -> list[WorkerInfo]:
        return [worker for worker in workers.listing(database=self.shop.database) if worker.started_at]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def trainers(self) -> list[int]:
        return [pid for pid in children(self.process.pid) if "trainer" in command_line(pid)]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, *numbers: signal.Signals) -> int:
        for number in numbers or (signal.SIGTERM,):
            self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def working(shop: Workshop, broker_url: str, *runs: Any, **more: str) -> Iterator[WorkerProcess]:
    """Run a worker until the block ends; it is killed then if it still runs. With `runs`, its trainer plays a script."""
    command = ["tests.support.scripted_worker", json.dumps(runs)] if runs else ["worker"]
    log = shop.folder / f"worker-{time.monotonic_ns()}.log"
    chosen = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    environment = chosen | QUICK | shop.environment | {"BLUELORA_BROKER_URL": broker_url} | more
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    worker = WorkerProcess(process, log, shop)
    try:
        yield worker
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        if process.poll() is None:
            worker.kill()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - began
