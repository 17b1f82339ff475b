"""A check that outlives its request, whatever the file's container, and the process that began it."""

import gzip
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from bench import jsonl, processes
from tests.support import registry
from tests.support.children import inspectors_of, is_running, wait
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


ROWS = [{"instruction": f"第{number}问", "input": "", "output": f"answer {number}"} for number in range(2000)]


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file.getvalue()


LATE = {
    "Parquet": (parquet(), "ready", None),
    "gzip": (gzip.compress(b"".join(b'{"prompt": "%d", "completion": "x"}\n' % n for n in range(2000))), "ready", None),
    "Parquet in gzip": (gzip.compress(parquet()), "ready", None),
    "Parquet cut short": (parquet()[:-20], "invalid", "truncated"),
    "gzip cut short": (gzip.compress(b'{"prompt": "a", "completion": "x"}\n' * 50)[:-9], "invalid", "truncated"),
}


def test_any_container_may_be_checked_late(sqlite_databases: SqliteDatabases, tmp_path: Path) -> None:
    sqlite_databases.copy(tmp_path)
    ids: list[str] = []
    with serving(tmp_path, validation_wait_s=1e-6, lease_s=1.0, heartbeat_s=0.5) as live, live.client() as client:
        for number, (content, _, _) in enumerate(LATE.values()):
            made = client.post("/datasets", params={"name": f"late-{number}"}, content=content)
            assert (made.status_code, made.json()["status"]) == (202, "processing")
            ids.append(made.json()["id"])
        for one, (_, status, code) in zip(ids, LATE.values(), strict=True):
            found = settled(client, one)
            assert found["status"] == status
            assert found["findings"][0]["code"] == code if code else found["summary"]["rows"] == 2000


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def settled(client: httpx.Client, dataset: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def is_settled() -> bool:
        found.update(client.get(f"/datasets/{dataset}").json())
        return bool(found["status"] != "processing")

    wait(is_settled)
    return found


def state(client: httpx.Client) -> str:
    return str(client.get("/datasets/late").json()["status"])
