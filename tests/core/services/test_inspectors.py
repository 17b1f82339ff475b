"""The inspecting process: what it may do, and how it ends."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.domain.datasets import Inspection
from core.services.inspectors import DATASETS, InspectionFailed, Inspector

GOOD = b'{"instruction": "a", "input": "", "output": "b"}\n'


async def inspected(*chunks: bytes, patience_s: float = 30.0) -> Inspection | None:
    async with Inspector.started(DATASETS, limit_bytes=10**6) as inspector:
        for chunk in chunks:
            await inspector.feed(chunk, patience_s=patience_s)
        return await inspector.outcome(patience_s=patience_s)


def test_it_reports_what_it_read() -> None:
    outcome = asyncio.run(inspected(GOOD, GOOD[:10], GOOD[10:]))

    assert outcome is not None
    assert outcome.is_acceptable
    assert outcome.summary.rows == 2


def test_it_stops_reading_once_the_file_is_refused() -> None:
    async def run() -> Inspection:
        async with Inspector.started(DATASETS, limit_bytes=10**9) as inspector:
            await inspector.feed(b"%PDF-1.7" + b"x" * 1000, patience_s=30)
            await inspector._report
            await inspector.feed(b"x" * 10**6, patience_s=30)
            return await inspector.verdict()

    assert asyncio.run(run()).findings[0].code == "binary_file"


def test_a_report_that_is_late_is_no_report() -> None:
    assert asyncio.run(inspected(GOOD, patience_s=1e-6)) is None


def test_a_process_that_takes_nothing_more_is_left_behind() -> None:
    async def run() -> tuple[Inspection | None, float]:
        async with Inspector.started(DATASETS, limit_bytes=10**9) as inspector:
            await inspector.feed(GOOD, patience_s=30)
            inspector._process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            for _ in range(50):
                await inspector.feed(GOOD * 2000, patience_s=0.2)
            return await inspector.outcome(patience_s=30), time.monotonic() - began

    outcome, took = asyncio.run(run())

    assert outcome is None
    assert took < 5


def test_a_process_that_dies_is_no_verdict_on_the_file() -> None:
    async def run() -> None:
        async with Inspector.started(DATASETS, limit_bytes=10**6) as inspector:
            await inspector.feed(GOOD, patience_s=30)
            inspector._process.kill()
            await inspector.outcome(patience_s=30)

    with pytest.raises(InspectionFailed, match="status -9"):
        asyncio.run(run())


def test_it_knows_no_secret_and_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELORA_DATABASE_URL", "postgresql://someone:secret@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    wanted = {
        resource.RLIMIT_AS: (2**30, 2**30),
        resource.RLIMIT_CPU: (260, 260),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_FSIZE: (200 * 2**20, 200 * 2**20),
    }

    def look(pid: int) -> bytes:
        deadline = time.monotonic() + 30
        while {which: resource.prlimit(pid, which) for which in wanted} != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return Path(f"/proc/{pid}/environ").read_bytes()

    async def run() -> bytes:
        async with Inspector.started(DATASETS, limit_bytes=2**20) as inspector:
            return await asyncio.to_thread(look, inspector._process.pid)

    environment = asyncio.run(run())

    assert b"PATH=" in environment
    assert b"secret" not in environment


def test_too_little_memory_is_a_refusal_not_a_crash() -> None:
    row = b'{"instruction": "' + b"a" * 1_000_000 + b'", "input": "", "output": "b"}\n'
    command = [sys.executable, "-m", "core.services.inspection", str(os.getpid()), "1", "60", "0"]

    ran = subprocess.run(command, input=row, capture_output=True, check=True, cwd=Path(__file__).parents[3])

    assert b'"too_complex"' in ran.stdout


def test_it_dies_with_its_parent() -> None:
    script = (
        "import asyncio\n"
        "from core.services.inspectors import DATASETS, Inspector\n"
        "async def main():\n"
        "    async with Inspector.started(DATASETS, limit_bytes=10) as inspector:\n"
        "        await inspector.feed(b'{', patience_s=30)\n"
        "        print(inspector._process.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()

    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """An orphan that has ended may stay as a zombie where nobody reaps."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
