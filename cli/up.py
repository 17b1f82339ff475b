"""`bluelora up`: one supervisor on one data directory starts a broker, the API, a worker and an engine.

They are the processes of production, started with the same commands and the same variables; only the values differ.
"""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import httpx
import typer
from rich.console import Console

from cli import broker, imports, places
from cli.options import DataDirOption
from cli.places import ROOT, DataDir, secret_file, write_json
from cli.processes import KeepsCrashing, Process, python
from cli.screen import Refused, screen
from core.domain.bases import Base
from core.settings import Settings

READY_S: Final = 240.0
POLL_S: Final = 0.1
NANO: Final = "bluelm-nano"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `up` was asked for. A port of 0 means a free one."""

    data: DataDir
    host: str
    port: int
    base: str | None


@dataclass(slots=True)
class Supervisor:
    """Starts the processes in order, keeps them, and stops them in reverse."""

    plan: Plan
    console: Console
    url: str = ""
    processes: list[Process] = field(default_factory=list)
    stopping: bool = False

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM.

        Raises:
            Refused: The data directory is in use, a base is missing, or a process can't be kept.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        with only_one(self.plan.data):
            try:
                self._start()
                if not self.stopping:
                    self._announce()
                while not self.stopping:
                    self._tend()
                    time.sleep(POLL_S)
            except KeepsCrashing as error:
                raise Refused(str(error)) from error
            except Refused:
                # Ctrl-C in a terminal reaches an import or a migration too; that it broke off is then no news.
                if not self.stopping:
                    raise
            finally:
                self._stop_all()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _start(self) -> None:
        data = self.plan.data
        port = _free_port(self.plan.host, self.plan.port)
        self.url = f"http://{_bracketed(self.plan.host)}:{port}"
        engine_port = _free_port("127.0.0.1")
        secret_file(data.engine_key_file)
        imports.make_admin_key(data)
        path = broker.socket_path(data)
        environment = {
            "BLUELORA_DATA_DIR": str(data.path),
            "BLUELORA_BROKER_URL": os.environ.get("BLUELORA_BROKER_URL", broker.url(path)),
            "BLUELORA_ENGINE_URL": os.environ.get("BLUELORA_ENGINE_URL", f"http://127.0.0.1:{engine_port}"),
            "BLUELORA_ENGINE_API_KEY_FILE": os.environ.get("BLUELORA_ENGINE_API_KEY_FILE", str(data.engine_key_file)),
            "BLUELORA_ADMIN_KEY_FILE": str(data.admin_key_file),
            # Idle OpenMP threads that spin slow every other process of a small machine down.
            "OMP_WAIT_POLICY": "PASSIVE",
            "BLUELORA_HOST": self.plan.host,
            "BLUELORA_PORT": str(port),
        }
        imports.migrate(data)
        if "BLUELORA_BROKER_URL" not in os.environ:
            self._keep(broker.process(path, data))
            self._wait("broker", lambda: broker.answers(path))
        base, folder = self._base()
        environment["BLUELORA_BASE"] = base.name
        # Parquet, in a worker packed Parquet, is copied to a file without a name while it is read; /tmp may be small.
        scratch = {"TMPDIR": os.environ.get("TMPDIR", str(data.path))}
        self._keep(self._python("api", environment | scratch, "api", stop_s=20.0))
        self._keep(self._python("worker", environment | scratch, "worker", stop_s=60.0))
        if "BLUELORA_ENGINE_URL" not in os.environ:
            arguments = ["--base-dir", str(folder), "--served-name", base.name, "--port", str(engine_port)]
            arguments += ["--api-key-file", str(data.engine_key_file)]
            arguments += ["--max-lora-rank", str(Settings(data_dir=data.path).max_lora_rank)]
            self._keep(self._python("engine", environment, "worker.engine", *arguments, oom_score_adj=500))
        self._wait("service", self._is_ready)

    def _python(
        self, name: str, environment: dict[str, str], *module: str, stop_s: float = 15.0, oom_score_adj: int = 0
    ) -> Process:
        log = self.plan.data.logs / f"{name}.log"
        return Process(
            name=name,
            command=python(*module),
            environment=environment,
            log=log,
            stop_s=stop_s,
            oom_score_adj=oom_score_adj,
        )

    def _keep(self, process: Process) -> None:
        if not self.stopping:
            self.processes.append(process)
            process.tend()

    def _base(self) -> tuple[Base, Path]:
        """The base to serve, with its folder; the nano one is imported if there is none at all."""
        data = self.plan.data
        if not imports.known(data):
            self.console.print(
                f"No base yet: importing {NANO}, a small BlueLM for trying things out. The real one:\n"
                f"  bluelora import vivo-ai/BlueLM-7B-Chat --name bluelm-7b-chat --data-dir {data.path}",
                soft_wrap=True,
            )
            imports.run(ROOT / "assets" / NANO, name=NANO, data=data, console=self.console)
        return imports.folder_of(self.plan.base, data=data)

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=2.0)
        except httpx.HTTPError:
            return False
        if answer.status_code != 200:
            return False
        return all(part["status"] == "ok" for part in answer.json()["parts"])

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_S
        while not self.stopping and not is_there():
            if time.monotonic() > deadline:
                raise Refused(f"The {what} was not ready within {READY_S:.0f} s; see {self.plan.data.logs}.")
            self._tend()
            time.sleep(POLL_S)

    def _tend(self) -> None:
        restarted = [process.name for process in self.processes if process.tend()]
        if restarted and self.plan.data.service_file.exists():
            self.console.print(f"Started again: {', '.join(restarted)}.")
            self._write_service_file()

    def _announce(self) -> None:
        self._write_service_file()
        self.console.print(f"BlueLoRA serves {self.url}  (docs: {self.url}/docs)", soft_wrap=True)
        self.console.print(f"Admin key: {self.plan.data.admin_key_file}", soft_wrap=True)

    def _write_service_file(self) -> None:
        write_json(
            self.plan.data.service_file,
            {"url": self.url, "pids": {process.name: process.pid for process in self.processes}},
        )

    def _stop_all(self) -> None:
        self.plan.data.service_file.unlink(missing_ok=True)
        for process in reversed(self.processes):
            process.stop()


@contextmanager
def only_one(data: DataDir) -> Iterator[None]:
    """Hold the data directory's lock; the kernel lets go of it when we end, however that happens.

    Whoever holds it knows that no service runs here: what a killed one left in `service.json` is cleared.

    Raises:
        Refused: Another `up` holds it.
    """
    data.path.mkdir(parents=True, exist_ok=True)
    with (data.path / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                f"Another `bluelora up` already serves {data.path}; stop it or choose another --data-dir."
            ) from error
        data.service_file.unlink(missing_ok=True)
        yield


def _free_port(host: str, port: int = 0) -> int:
    """Give the port if it is free, or any free one for 0.

    Raises:
        Refused: It is taken: whatever answers there would be mistaken for our API. Or nobody can listen on `host`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the API will: connections of an earlier one that still close are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise Refused(
                f"Can't listen on {host}, port {port}: {reason}. `--port 0` takes a free port; --host names an address "
                "of this machine."
            ) from error
        return int(probe.getsockname()[1])


def _bracketed(host: str) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (shown, not bound)
    return f"[{shown}]" if ":" in shown else shown


def command(
    data_dir: DataDirOption = None,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 8000,
    base: Annotated[str | None, typer.Option(help="Base to serve; default the only one.", show_default=False)] = None,
) -> None:
    """Serve everything from one data directory until Ctrl-C."""
    Supervisor(Plan(data=places.chosen(data_dir), host=host, port=port, base=base), screen.console).run()
