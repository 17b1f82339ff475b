"""A check that outlives its request, and the process that began it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from bench import jsonl, processes
from tests.support import registry
from tests.support.databases import SqliteDatabases
from tests.support.live import ADMIN, serving
from tests.support.problems import problem

ROOT = Path(__file__).parents[2]
BYTES = 30_000_000


def test_a_killed_api_leaves_a_check_that_the_next_one_finishes(
    sqlite_databases: SqliteDatabases, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    sqlite_databases.copy(folder)
    file = tmp_path / "rows.jsonl"
    jsonl.write(file, size=BYTES, seed=1)
    settings = {"validation_wait_s": 1e-6, "lease_s": 1.0, "heartbeat_s": 0.5}
    (folder / "admin.key").write_text(ADMIN)
    port = processes.free_port()
    told = settings | {"data_dir": folder, "port": port, "admin_key_file": folder / "admin.key"}
    api = subprocess.Popen(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        env=os.environ | {f"BLUELORA_{name.upper()}": str(value) for name, value in told.items()},
        stderr=subprocess.DEVNULL,
    )
    headers = {"Authorization": f"Bearer {ADMIN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, verify=False, timeout=30) as client:
        try:
            wait(lambda: is_ready(client))
            made = client.post("/datasets", params={"name": "late"}, content=file.read_bytes())
            assert (made.status_code, made.json()["status"]) == (202, "processing")
            wait(lambda: bool(inspectors_of(api.pid)))
            children = inspectors_of(api.pid)
            assert state(client) == "processing"
        finally:
            api.send_signal(signal.SIGKILL)
            api.wait()
    wait(lambda: not any(is_running(child) for child in children))

    with serving(folder, **settings) as live, live.client() as client:
        assert state(client) == "processing"
        registry.base(live.runtime, name="plain")
        refused = client.post("/jobs", json={"dataset": "late", "name": "x"})
        problem(refused, status=409, code="dataset_not_ready")
        assert refused.headers["retry-after"] == "2"
        wait(lambda: state(client) != "processing")
        found = client.get("/datasets/late").json()

    assert (found["status"], found["summary"]["rows"]) == ("ready", file.read_bytes().count(b"\n"))


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def state(client: httpx.Client) -> str:
    return str(client.get("/datasets/late").json()["status"])


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def inspectors_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for file in children for child in file.read_text().split()]
    return [child for child in pids if b"core.services.inspection" in Path(f"/proc/{child}/cmdline").read_bytes()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
