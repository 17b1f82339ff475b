"""A whole service for journeys: `bluelora up` as a process, reached by HTTP only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from core import tether

ROOT: Final = Path(__file__).parents[2]
ASSETS: Final = ROOT / "assets"
START_S: Final = 120.0
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


@dataclass
class Service:
    """A running service. `http` carries the admin key."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    http: httpx.Client

    @property
    def pids(self) -> dict[str, int]:
        """As service.json has them now."""
        found: dict[str, int] = json.loads((self.data_dir / "service.json").read_text())["pids"]
        return found

    def upload_sample(self) -> str:
        """Upload the persona's rows and return the data set's id; the same bytes twice are one data set."""
        rows = (ASSETS / "sample.jsonl").read_bytes()
        answer = self.http.post("/datasets", params={"name": "persona-rows"}, content=rows)
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"])

    def submit(self, **spec: Any) -> str:
        """Queue a job and return its id."""
        answer = self.http.post("/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands."""
        answer = self.http.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def job_until(
        self, job_id: str, is_so: Callable[[dict[str, Any]], bool], *, seconds: float = 120
    ) -> dict[str, Any]:
        """Look at a job until something is so."""
        deadline = time.monotonic() + seconds
        while not is_so(job := self.job(job_id)):
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def ended(self, job_id: str, *, seconds: float = 180) -> dict[str, Any]:
        """Wait until a job has ended."""
        return self.job_until(job_id, lambda job: job["status"] in ENDED, seconds=seconds)

    def ask(self, question: str, **fields: Any) -> str:
        """Ask greedily and return the answer's text."""
        answer = self.http.post("/generate", json={"prompt": question, "max_tokens": 48, **fields}, timeout=60)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])


@contextmanager
def running(data_dir: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run `bluelora up` on a free port while the block lasts, and stop it as a user would."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "up.log"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("BLUELORA_")}
    command = tether.command([sys.executable, "-m", "cli", "up", "--data-dir", str(data_dir), "--port", "0"])
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables | dict(environment or {}), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        service_file = data_dir / "service.json"
        _until(service_file.exists, process=process, log=log)
        url = json.loads(service_file.read_text())["url"]
        key = (data_dir / "admin.key").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
            yield Service(data_dir=data_dir, process=process, http=http)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


def _until(is_there: Callable[[], bool], *, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not is_there():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
