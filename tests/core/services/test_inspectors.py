"""The inspecting process: what it may do, and how it ends."""

import asyncio
import contextlib
import gzip
import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.domain.datasets import Inspection
from core.errors import StorageFull
from core.services.inspection import LISTING_S
from core.services.inspectors import DATASETS, InspectionFailed, Inspector, Program
from tests.support.children import is_running, wait
from tests.support.streams import cut

GOOD = b'{"instruction": "a", "input": "", "output": "b"}\n'


async def inspected(
    *chunks: bytes, patience_s: float = 30.0, program: Program[Inspection] = DATASETS
) -> Inspection | None:
    async with Inspector.started(program, limit_bytes=10**6) as inspector:
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


@pytest.mark.parametrize(
    ("begun", "code"),
    [
        (b"%PDF-1.7\n%....................", "binary_file"),
        (GOOD.decode().encode("utf-16"), "utf16"),
        (gzip.compress(gzip.compress(GOOD)), "nested_compression"),
        (b"\x1f\x8b" + b"\xff" * 30, "damaged_archive"),
        (b"a page, not a table\n", "unsupported_format"),
        (GOOD + b'{"x": 1}\n', "unknown_format"),
        (GOOD + b"\0\n", "nul_byte"),
        (b"prompt,completion\na,b,c\n", "wrong_width"),
        (b"[" + GOOD + b"}", "malformed_json"),
        (b'[{"x": "' + b"a" * 1000 + b'"},', "unknown_format"),
        (b'[{"x": ["a", "b", {"y": 1}]},', "unknown_format"),
    ],
)
def test_a_sender_who_goes_no_further_is_refused_all_the_same(begun: bytes, code: str) -> None:
    middle = len(begun) - 3

    async def run() -> Inspection:
        async with Inspector.started(DATASETS, limit_bytes=10**9) as inspector:
            await inspector.feed(begun[:middle], patience_s=30)
            await inspector.feed(begun[middle:], patience_s=30)
            async with asyncio.timeout(30):  # far more than LISTING_S; the input stays open
                await asyncio.shield(inspector._report)
            return await inspector.verdict()

    assert asyncio.run(run()).findings[0].code == code


def test_a_refusal_keeps_its_two_seconds() -> None:
    assert LISTING_S < 2


def test_many_good_rows_of_parquet_after_a_fault_are_not_all_read() -> None:
    rows = 2_000_000
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": [""] + ["a"] * (rows - 1), "completion": ["b"] * rows}), file)

    outcome = asyncio.run(inspected(file.getvalue(), patience_s=60))

    assert outcome is not None
    assert [finding.code for finding in outcome.findings if finding.severity == "error"] == [
        "empty_prompt",
        "reading_stopped",
    ]
    assert outcome.summary.rows < rows - 1


def test_the_limit_on_processor_time_is_told_apart_from_a_kill() -> None:
    command = [sys.executable, "-m", "core.services.inspection", str(os.getpid()), str(2**30), "1", "0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[3])
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        while process.poll() is None:
            process.stdin.write(GOOD * 1000)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()

    assert process.wait(30) == -signal.SIGXCPU


def test_reading_ends_soon_after_the_first_fault_however_much_is_sent() -> None:
    async def run() -> tuple[Inspection, int]:
        async with Inspector.started(DATASETS, limit_bytes=10**9) as inspector:
            await inspector.feed(b'{"x": 1}\n', patience_s=30)
            sent = 0
            while not inspector.is_decided:
                await inspector.feed(GOOD * 1000, patience_s=30)
                sent += 1000
                await asyncio.sleep(0.01)
            return await inspector.verdict(), sent

    outcome, sent = asyncio.run(run())

    assert [finding.code for finding in outcome.findings if finding.severity == "error"] == [
        "unknown_format",
        "reading_stopped",
    ]
    assert 0 < outcome.summary.rows <= sent


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


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGSEGV, "reader_crashed"),
        (signal.SIGABRT, "reader_crashed"),
        (signal.SIGBUS, "reader_crashed"),
        (signal.SIGXCPU, "too_complex"),
    ],
)
def test_a_file_that_brings_its_reader_down_is_refused(number: signal.Signals, code: str) -> None:
    async def run() -> Inspection | None:
        async with Inspector.started(DATASETS, limit_bytes=10**6) as inspector:
            await inspector.feed(GOOD, patience_s=30)
            inspector._process.send_signal(number)
            return await inspector.outcome(patience_s=30)

    outcome = asyncio.run(run())

    assert outcome is not None
    assert not outcome.is_acceptable
    assert [finding.code for finding in outcome.findings] == [code]


LARGE_ROWS = 20_000


@pytest.fixture(scope="module")
def large() -> bytes:
    """Parquet that is not kept in memory: above 8 MiB."""
    dice = random.Random(0)
    file = io.BytesIO()
    answers = [dice.randbytes(500).hex() for _ in range(LARGE_ROWS)]
    pq.write_table(pa.table({"instruction": ["q"] * LARGE_ROWS, "output": answers}), file, row_group_size=3000)
    assert len(file.getvalue()) > 8 * 2**20
    return file.getvalue()


def test_large_parquet_is_copied_to_a_file_without_a_name(
    large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    async def run() -> Inspection:
        async with Inspector.started(DATASETS, limit_bytes=len(large)) as inspector:
            for chunk in cut(large, 2**18):
                await inspector.feed(chunk, patience_s=30)
            descriptors = Path(f"/proc/{inspector._process.pid}/fd")
            await asyncio.to_thread(
                wait, lambda: any(tmp_path in each.readlink().parents for each in descriptors.iterdir())
            )
            return await inspector.verdict()

    outcome = asyncio.run(run())

    assert outcome.is_acceptable
    summary = outcome.summary
    assert (summary.container, summary.format, summary.compression) == ("parquet", "alpaca", None)
    assert (summary.rows, summary.turns, summary.columns) == (LARGE_ROWS, 2 * LARGE_ROWS, ("instruction", "output"))
    assert (summary.prompt_characters, summary.answer_characters) == (LARGE_ROWS, 1000 * LARGE_ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kept", "code"), [(0.5, "truncated"), (0.999, "truncated")])
def test_large_parquet_that_is_cut_short_is_refused(large: bytes, kept: float, code: str) -> None:
    outcome = asyncio.run(inspected(*cut(large[: int(kept * len(large))], 2**18)))

    assert outcome is not None
    assert [finding.code for finding in outcome.findings] == [code]


def test_a_copy_that_finds_no_room_is_no_fault_of_the_file(large: bytes) -> None:
    narrow = replace(DATASETS, most_bytes=lambda _limit: 9 * 2**20)

    with pytest.raises(StorageFull):
        asyncio.run(inspected(*cut(large, 2**18), program=narrow))


def test_it_knows_no_secret_and_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLUELORA_DATABASE_URL", "postgresql://someone:secret@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    wanted = {
        resource.RLIMIT_AS: (2**30, 2**30),
        resource.RLIMIT_CPU: (260, 265),
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

    wait(lambda: not is_running(child))
