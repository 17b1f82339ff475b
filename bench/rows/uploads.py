"""Upload row: U1, what a large upload does to the process that takes it in, and to those who ask meanwhile."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import harness, jsonl, loads, processes, services
from bench.harness import Options, Peer, Result
from bench.loads import Call, Latencies
from bench.processes import Serving

BYTES: Final = {"tiny": 20_000_000, "nano": 1_000_000_000, "7b": 1_000_000_000}
WARM_BYTES: Final = 100_000
INSPECTOR: Final = "core.services.inspection"
PROBE_S: Final = 0.02
MIB: Final = 2**20


def u1(options: Options) -> Result:
    """Upload one file to the API and to the peer; `figure` is MiB that the API grew by, so that less is better.

    `n` counts the probes of `/healthz` meanwhile, one each 20 ms. The peer keeps and hashes the bytes and inspects
    nothing. `--steps` has no meaning here.
    """
    with tempfile.TemporaryDirectory(prefix="bench-u1-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        file = folder / "rows.jsonl"
        jsonl.write(file, size=BYTES[options.shape], seed=options.seed)
        port = processes.free_port()
        command = ("bench.peers.bare_fastapi", str(port), "http://127.0.0.1:9", str(folder))
        bare = stack.enter_context(processes.serving(*command, port=port, alive="/healthz", log=folder / "bare.log"))
        service = stack.enter_context(services.running(folder))
        idle = asyncio.run(_idle(service.process))
        ours = asyncio.run(_upload(service.process, file, folder, key=service.key))
        peer = asyncio.run(_upload(bare, file, folder, key=service.key))
        return _result(ours, peer, idle, start_s=service.process.start_s, size=file.stat().st_size, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uploaded:
    """What one upload did. `child_mib` is the most that a child process held; `status` answered the upload."""

    growth_mib: float
    child_mib: float
    seconds: float
    status: int
    health: Latencies
    probes: int


async def _idle(process: Serving) -> Latencies:
    """Probe for a second while nothing else is asked: what the machine itself does to latencies."""
    took = await loads.probed(
        Call.to(f"{process.url}/healthz", status=200), asyncio.sleep(1.0), every_s=PROBE_S, also=lambda: None
    )
    return Latencies.of(took)


async def _upload(process: Serving, file: Path, folder: Path, *, key: str) -> _Uploaded:
    """Upload a small file, so that everything is loaded, then the large one, looking all the time."""
    small = folder / "small.jsonl"
    jsonl.write(small, size=WARM_BYTES, seed=1)
    await _sent(process, small, key=key)
    processes.forget_peak(process.pid)
    before, child = processes.resident_bytes(process.pid), 0

    def look() -> None:
        nonlocal child
        child = max(child, processes.children_peak_bytes(process.pid, module=INSPECTOR))

    began = time.perf_counter()
    sending = asyncio.ensure_future(_sent(process, file, key=key))
    took = await loads.probed(Call.to(f"{process.url}/healthz", status=200), sending, every_s=PROBE_S, also=look)
    return _Uploaded(
        growth_mib=(processes.peak_bytes(process.pid) - before) / MIB,
        child_mib=child / MIB,
        seconds=time.perf_counter() - began,
        status=sending.result(),
        health=Latencies.of(took),
        probes=len(took),
    )


async def _sent(process: Serving, file: Path, *, key: str) -> int:
    """Have a process of its own send the file; gives the status that answered, which must be of success."""
    sender = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.jsonl",
        f"{process.url}/datasets?name={file.stem}",
        str(file),
        cwd=processes.ROOT,
        env=os.environ | {"BENCH_API_KEY": key},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await sender.communicate()
    answer = json.loads(said)
    if answer["status"] not in {201, 202}:
        raise loads.UnexpectedAnswer(f"the upload was answered {answer['status']}: {answer['body'][:500]}")
    return int(answer["status"])


def _result(
    ours: _Uploaded, peer: _Uploaded, idle: Latencies, *, start_s: float, size: int, options: Options
) -> Result:
    return Result(
        row="U1",
        figure=ours.growth_mib,
        unit="MiB grown",
        peer=Peer(name="bare FastAPI + uvicorn, bytes to a file and hashed, no inspection", figure=peer.growth_mib),
        ratio=ours.growth_mib / peer.growth_mib,
        limit=None,
        of_limit=None,
        tokens_per_step=None,
        warmup_s=start_s,
        n=ours.probes,
        spread=0.0,
        parity=None,
        device=harness.processor(),
        shape=options.shape,
        versions=harness.versions("fastapi", "uvicorn", "obstore", "orjson"),
        more={
            "bytes": size,
            "status": ours.status,
            "mb_per_s": size / ours.seconds / 1e6,
            "peer_mb_per_s": size / peer.seconds / 1e6,
            "inspector_peak_mib": ours.child_mib,
            "healthz_p50_ms": ours.health.p50_ms,
            "healthz_p99_ms": ours.health.p99_ms,
            "healthz_max_ms": ours.health.max_ms,
            "peer_healthz_p99_ms": peer.health.p99_ms,
            "peer_healthz_max_ms": peer.health.max_ms,
            "idle_healthz_p99_ms": idle.p99_ms,
            "load_average": os.getloadavg()[0],
        },
    )
