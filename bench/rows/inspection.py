"""Inspection row: D1, how fast one core reads tutorial-shaped JSONL for faults, beside orjson alone; and its memory.

Both sides are processes of their own that read the same file from stdin; ours is the very one that uploads are fed to.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import harness, jsonl, processes
from bench.harness import Options, Peer, Result
from core.services import confinement
from core.services.inspectors import DATASETS

BYTES: Final = {"tiny": 2_000_000, "nano": 100_000_000, "7b": 1_000_000_000}
ROUNDS: Final = 5
LOOK_S: Final = 0.002
MIB: Final = 2**20


def d1(options: Options) -> Result:
    """Read one file in turn by both sides; `figure` is MB a second from the first read to the process's end.

    `--steps` is the number of rounds. No token is counted: that is another process's work.
    """
    with tempfile.TemporaryDirectory(prefix="bench-d1-") as name:
        file = Path(name) / "rows.jsonl"
        jsonl.write(file, size=BYTES[options.shape], seed=options.seed)
        size, rows = file.stat().st_size, _lines(file)
        ours = DATASETS.command(limit_bytes=size)
        peer = (sys.executable, "-m", "bench.peers.orjson_lines")
        rounds = [(_read(ours, file, rows=rows), _read(peer, file, rows=rows)) for _ in range(options.steps or ROUNDS)]
        return _result([one for one, _ in rounds], [one for _, one in rounds], size=size, rows=rows, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """One process that read the file: how long it took to start, to read, and how long it had a processor for reading.

    `start_bytes` is what it held when it began to read, `peak_bytes` the most.
    """

    start_s: float
    seconds: float
    processor_s: float
    start_bytes: int
    peak_bytes: int


def _lines(file: Path) -> int:
    """Count rows, which leaves the file in the page cache."""
    with file.open("rb") as lines:
        return sum(1 for _ in lines)


def _read(command: Sequence[str], file: Path, *, rows: int) -> _Read:
    started = time.perf_counter()
    with file.open("rb", buffering=0) as source, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdin=source, stdout=said, cwd=processes.ROOT, env=dict(confinement.environment())
        )
        # The file's position is the process's too: once it moves, everything is loaded and reading has begun.
        while not source.tell() and process.poll() is None:
            time.sleep(LOOK_S)
        if process.returncode is not None:
            raise RuntimeError(f"a reader ended with {process.returncode} before it read")
        began = time.perf_counter()
        spent_s, start = processes.processor_seconds(process.pid), processes.peak_bytes(process.pid)
        now_s, peak = spent_s, start
        while process.poll() is None:
            now_s, peak = processes.processor_seconds(process.pid), max(peak, processes.peak_bytes(process.pid))
            time.sleep(LOOK_S)
        ended = time.perf_counter()
        said.seek(0)
        _check(process.wait(), said.read(), rows=rows)
    return _Read(
        start_s=began - started, seconds=ended - began, processor_s=now_s - spent_s, start_bytes=start, peak_bytes=peak
    )


def _check(status: int, said: str, *, rows: int) -> None:
    if status:
        raise RuntimeError(f"a reader ended with {status}")
    summary: dict[str, Any] = json.loads(said)["summary"]
    if summary["rows"] != rows or summary.get("errors"):
        raise RuntimeError(f"a reader did not take in {rows} good rows: {said[:500]}")


def _result(ours: Sequence[_Read], peer: Sequence[_Read], *, size: int, rows: int, options: Options) -> Result:
    speeds, others = ([size / one.seconds / 1e6 for one in side] for side in (ours, peer))
    figure, other = statistics.median(speeds), statistics.median(others)
    return Result(
        row="D1",
        figure=figure,
        unit="MB/s",
        peer=Peer(name="orjson.loads of each line, nothing kept", figure=other),
        ratio=figure / other,
        warmup_s=statistics.median(one.start_s for one in ours),
        n=len(speeds),
        spread=harness.spread(speeds),
        device=harness.processor(),
        shape=options.shape,
        versions=harness.versions("orjson", "numpy"),
        more={
            "bytes": size,
            "rows": rows,
            "slowest": min(speeds),
            "fastest": max(speeds),
            "processor_mb_per_s": statistics.median(size / one.processor_s / 1e6 for one in ours),
            "peer_processor_mb_per_s": statistics.median(size / one.processor_s / 1e6 for one in peer),
            "peer_spread": harness.spread(others),
            "ratio_spread": harness.spread([mine / bare for mine, bare in zip(speeds, others, strict=True)]),
            "inspector_peak_mib": max(one.peak_bytes for one in ours) / MIB,
            "inspector_growth_mib": max(one.peak_bytes - one.start_bytes for one in ours) / MIB,
            "peer_peak_mib": max(one.peak_bytes for one in peer) / MIB,
            "load_average": os.getloadavg()[0],
        },
    )
