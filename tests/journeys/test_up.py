"""`bluelora up` as an operator meets it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.service import ROOT, Service, running


def test_a_second_supervisor_on_the_same_folder_is_refused(service: Service) -> None:
    command = [sys.executable, "-m", "cli", "up", "--data-dir", str(service.data_dir), "--port", "0"]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3
    assert "already serves" in second.stderr


def test_a_killed_api_comes_back_on_the_same_address(service: Service) -> None:
    api = service.pids["api"]
    os.kill(api, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while service.pids["api"] in (None, api):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    while not _answers(service):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_api_and_worker_keep_temporary_files_on_the_data_directory(service: Service) -> None:
    ours = os.environ.get("TMPDIR")
    for name in ("api", "worker"):
        assert _variable("TMPDIR", service.pids[name]) == (ours or str(service.data_dir))
    assert _variable("TMPDIR", service.pids["engine"]) == ours


def _variable(name: str, pid: int) -> str | None:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next((each.partition("=")[2] for each in variables if each.startswith(f"{name}=")), None)


def _answers(service: Service) -> bool:
    try:
        return service.http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_stops_every_process_and_a_restart_finds_everything(tmp_path: Path) -> None:
    with running(tmp_path / "data") as first:
        pids = first.pids
        assert set(pids) == {"api", "worker", "engine", "broker"}
        dataset = first.upload_sample()
    assert first.process.returncode == 0
    assert not (tmp_path / "data" / "service.json").exists()
    for pid in pids.values():
        assert not Path(f"/proc/{pid}").exists()
    with running(tmp_path / "data") as second:
        assert second.http.get(f"/datasets/{dataset}").status_code == 200
        assert len(second.http.get("/bases").json()["data"]) == 1
