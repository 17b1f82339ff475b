"""Upload row: U1, what a large upload does to the process that takes it in, and to those who ask meanwhile.

Once as JSONL, beside the peer, and once each as gzip around the same lines and as Parquet with the same columns.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from bench import harness, jsonl, loads, packed, processes, services
from bench.harness import Options, Peer, Result
from bench.loads import Call, Latencies
from bench.processes import Serving
from bench.services import Service
from core.services.inspectors import DATASETS

BYTES: Final = {"tiny": 5_000_000, "nano": 1_000_000_000, "7b": 1_000_000_000}
WARM_BYTES: Final = 100_000
PACKINGS: Final[Mapping[str, Callable[[Path], Path]]] = {"gzip": packed.gzipped, "parquet": packed.parquet}
PROBE_S: Final = 0.02
POLL_S: Final = 0.1
MIB: Final = 2**20


def u1(options: Options) -> Result:
    """Upload one file to the API and to the peer; `figure` is MiB that the API grew by, so that less is better.

    Each upload lasts until the data set is `ready`. `n` counts the probes of `/healthz` during the first, one each
    20 ms. The peer keeps and hashes the bytes and inspects nothing. `--steps` has no meaning here.
    """
    with tempfile.TemporaryDirectory(prefix="bench-u1-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        small, large = folder / "small.jsonl", folder / "rows.jsonl"
        jsonl.write(small, size=WARM_BYTES, seed=options.seed + 1)
        jsonl.write(large, size=BYTES[options.shape], seed=options.seed)
        port = processes.free_port()
        command = ("bench.peers.bare_fastapi", str(port), "http://127.0.0.1:9", str(folder))
        bare = stack.enter_context(processes.serving(*command, port=port, alive="/healthz", log=folder / "bare.log"))
        service = stack.enter_context(services.running(folder))
        idle = asyncio.run(_idle(service.process))
        ours = _uploads(service, small, large)
        peer = _upload(bare, small, large, key=service.key)
        others = {name: _uploads(service, pack(small), pack(large)) for name, pack in PACKINGS.items()}
        return _result(ours, peer, others, idle, start_s=service.process.start_s, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uploaded:
    """What one upload did. `status` answered it.

    `child_mib` is the most that the inspecting process held, `child_growth_mib` what that is beyond the one of a small
    file.
    """

    bytes: int
    growth_mib: float
    child_mib: float
    child_growth_mib: float
    seconds: float
    status: int
    health: Latencies
    probes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """A file sent and looked at meanwhile; `probes` are the seconds that answers to `/healthz` took."""

    status: int
    child_bytes: int
    seconds: float
    probes: list[float]


async def _idle(process: Serving) -> Latencies:
    """Probe for a second while nothing else is asked: what the machine itself does to latencies."""
    took = await loads.probed(
        Call.to(f"{process.url}/healthz", status=200), asyncio.sleep(1.0), every_s=PROBE_S, also=lambda: None
    )
    return Latencies.of(took)


def _uploads(service: Service, small: Path, large: Path) -> _Uploaded:
    """Upload both, then delete them, so that their tokens are not counted beside what is measured next."""
    uploaded = _upload(service.process, small, large, key=service.key)
    with httpx.Client(base_url=service.process.url, headers=dict(service.headers), trust_env=False) as http:
        for dataset in http.get("/datasets").raise_for_status().json()["data"]:
            http.delete(f"/datasets/{dataset['id']}").raise_for_status()
    return uploaded


def _upload(process: Serving, small: Path, large: Path, *, key: str) -> _Uploaded:
    """Upload a small file, so that everything is loaded, then the large one."""
    first = asyncio.run(_watched(process, small, key=key))
    processes.forget_peak(process.pid)
    before = processes.resident_bytes(process.pid)
    then = asyncio.run(_watched(process, large, key=key))
    return _Uploaded(
        bytes=large.stat().st_size,
        growth_mib=(processes.peak_bytes(process.pid) - before) / MIB,
        child_mib=then.child_bytes / MIB,
        child_growth_mib=(then.child_bytes - first.child_bytes) / MIB,
        seconds=then.seconds,
        status=then.status,
        health=Latencies.of(then.probes),
        probes=len(then.probes),
    )


async def _watched(process: Serving, file: Path, *, key: str) -> _Watched:
    """Send a file, looking all the time at the inspecting process and at how long others wait."""
    child = 0

    def look() -> None:
        nonlocal child
        child = max(child, processes.children_peak_bytes(process.pid, module=DATASETS.module))

    began = time.perf_counter()
    sending = asyncio.ensure_future(_taken_in(process, file, key=key))
    took = await loads.probed(Call.to(f"{process.url}/healthz", status=200), sending, every_s=PROBE_S, also=look)
    return _Watched(status=sending.result(), child_bytes=child, seconds=time.perf_counter() - began, probes=took)


async def _taken_in(process: Serving, file: Path, *, key: str) -> int:
    """Send a file and wait until nothing is `processing` any more; gives the status that answered the upload."""
    status, dataset = await _sent(process, file, key=key)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http:
        while dataset.get("status") == "processing":
            await asyncio.sleep(POLL_S)
            dataset = (await http.get(f"{process.url}/datasets/{dataset['id']}")).raise_for_status().json()
    if dataset.get("status") == "invalid":
        raise loads.UnexpectedAnswer(f"the data set was refused: {dataset['findings'][:3]}")
    return status


async def _sent(process: Serving, file: Path, *, key: str) -> tuple[int, dict[str, Any]]:
    """Have a process of its own send the file; gives the status that answered, which must be of success, and the body."""
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
    return answer["status"], json.loads(answer["body"])


def _result(
    ours: _Uploaded,
    peer: _Uploaded,
    others: Mapping[str, _Uploaded],
    idle: Latencies,
    *,
    start_s: float,
    options: Options,
) -> Result:
    packings = {f"{name}_{what}": value for name, one in others.items() for what, value in _said(one).items()}
    return Result(
        row="U1",
        figure=ours.growth_mib,
        unit="MiB grown",
        peer=Peer(name="bare FastAPI + uvicorn, bytes to a file and hashed, no inspection", figure=peer.growth_mib),
        ratio=ours.growth_mib / peer.growth_mib,
        warmup_s=start_s,
        n=ours.probes,
        spread=0.0,
        device=harness.processor(),
        shape=options.shape,
        versions=harness.versions("fastapi", "uvicorn", "obstore", "orjson", "pyarrow"),
        more=_said(ours)
        | {
            "peer_mb_per_s": peer.bytes / peer.seconds / 1e6,
            "peer_healthz_p99_ms": peer.health.p99_ms,
            "peer_healthz_max_ms": peer.health.max_ms,
            "idle_healthz_p99_ms": idle.p99_ms,
        }
        | packings
        | {"load_average": os.getloadavg()[0]},
    )


def _said(one: _Uploaded) -> dict[str, float]:
    """Name the figures of one file; a packed one's speed is that of the bytes sent."""
    return {
        "bytes": one.bytes,
        "status": one.status,
        "mb_per_s": one.bytes / one.seconds / 1e6,
        "growth_mib": one.growth_mib,
        "inspector_peak_mib": one.child_mib,
        "inspector_growth_mib": one.child_growth_mib,
        "healthz_p50_ms": one.health.p50_ms,
        "healthz_p99_ms": one.health.p99_ms,
        "healthz_max_ms": one.health.max_ms,
    }
