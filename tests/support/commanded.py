"""bluelm-nano as the import command leaves it, and engines on it as `bluelora engine` starts them: embedded and vLLM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from core import tether
from tests.support.engines import KEY, ROOT

NAME: Final = "bluelm-nano"
VLLM: Final = ROOT / ".venv-vllm"
START_S: Final = 240.0
PLACES: Final = 2
ROWS: Final = 4
QUEUE: Final = 2

Kind = Literal["embedded", "vllm"]

FLAGS: Final[Mapping[Kind, Sequence[str]]] = {
    "embedded": (f"--max-adapters={PLACES}", f"--max-sequences={ROWS}", f"--max-queue={QUEUE}"),
    "vllm": (
        f"--max-loras={PLACES}",
        f"--max-cpu-loras={PLACES}",
        f"--max-num-seqs={ROWS}",
        f"--max-num-queued-reqs={ROWS + QUEUE}",
        "--enforce-eager",  # compiling would double the time to start
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nano:
    """A data directory that has the base and nothing else. `base_dir` holds the imported files."""

    data_dir: Path
    base_dir: Path


def imported(data_dir: Path) -> Nano:
    """Import the base as a user does."""
    command = [sys.executable, "-m", "cli", "import", "assets/bluelm-nano", "--name", NAME]
    done = subprocess.run(
        [*command, "--data-dir", str(data_dir), "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return Nano(data_dir=data_dir, base_dir=Path(json.loads(done.stdout.splitlines()[-1])["path"]))


class Restartable:
    """One engine at one address with all its processes, which may be killed and started again.

    `key_file` is what the API needs to ask it; `log` is its output.
    """

    def __init__(self, nano: Nano, kind: Kind, folder: Path) -> None:
        self.kind: Kind = kind
        self.log = folder / f"{kind}.log"
        self.key_file = folder / "engine.key"
        self.key_file.write_text(KEY + "\n")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "cli", "engine", kind, "--base", NAME, "--port", str(port)]
        self._command += ["--api-key-file", str(self.key_file), "--data-dir", str(nano.data_dir)]
        self._command += ["--dtype", "float32", *FLAGS[kind]]
        self.start()

    @property
    def headers(self) -> dict[str, str]:
        """What a caller proves its right by."""
        return {"Authorization": f"Bearer {KEY}"}

    def start(self) -> None:
        self.process = _started(self._command, self.log)
        _until_healthy(self.url, self.process, self.log)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        _stop(self.process)


@contextmanager
def plain_vllm(folder: Path, log: Path) -> Iterator[str]:
    """Serve a folder by vLLM with nothing said but the path, and the port, as tests share one machine; gives the URL."""
    port = _free_port()
    process = _started([str(VLLM / "bin" / "vllm"), "serve", str(folder), "--port", str(port)], log)
    try:
        _until_healthy(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(process)


def _started(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            tether.command(command),
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    """What a small machine asks of vLLM; nothing of it changes an answer."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("BLUELORA_")}
    # Without bytecode each of its three processes would compile thousands of modules at every start.
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours | {
        "PATH": f"{VLLM / 'bin'}:{ours['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CACHE_ROOT": str(VLLM / "cache"),
    }


def _until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    with httpx.Client(base_url=url, timeout=2, trust_env=False) as http:
        while True:
            with suppress(httpx.TransportError):
                if http.get("/health").is_success:
                    return
            assert process.poll() is None, log.read_text(errors="replace")[-5000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-5000:]
            time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tell it to end, and end what is left of its group: vLLM's workers are processes of their own."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
