"""A data set larger than the API may grow. How long it takes is row U1's affair (bench/rows/uploads.py)."""

from pathlib import Path

from bench import jsonl, processes
from tests.support.service import Service

BYTES = 128 * 2**20
"""Twice what is allowed to grow, so that a process which kept the file would be seen."""
MOST_GROWN = 64 * 2**20


def test_a_large_upload_does_not_stay_in_memory(service: Service, tmp_path: Path) -> None:
    service.upload_sample()
    jsonl.write(tmp_path / "large.jsonl", size=BYTES, seed=3)
    api = service.pids["api"]
    processes.forget_peak(api)
    before = processes.resident_bytes(api)
    with (tmp_path / "large.jsonl").open("rb") as file:
        answer = service.http.post("/datasets", params={"name": "large"}, content=file, timeout=240)
    assert answer.status_code in (201, 202), answer.text
    grown = processes.peak_bytes(api) - before
    assert grown < MOST_GROWN
    stored = service.http.get(f"/datasets/{answer.json()['id']}").json()
    assert stored["bytes"] >= BYTES
