"""Service rows: S1, what the API adds to a request, against a bare FastAPI in front of the same engine."""

import asyncio
import contextlib
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Final

import httpx

from bench import harness, loads, processes, services
from bench.harness import Options, Peer, Result
from bench.loads import Call, Latencies

CONNECTIONS: Final = 8
BLOCKS: Final = 5
BLOCK_S: Final = {"tiny": 0.25, "nano": 3.0, "7b": 3.0}
SIDES: Final = ("ours", "peer")
ASKED: Final = json.dumps({"prompt": "你是谁？", "max_tokens": 16}).encode()
ROWS: Final = '{"instruction": "你是谁？", "input": "", "output": "一只猫。"}\n'.encode()


def s1(options: Options) -> Result:
    """Measure `POST /generate`: RPS in a closed loop, then latency added at half of our own highest rate.

    `--steps` is the number of blocks of each side in both loops. Blocks of the sides alternate.
    """
    with tempfile.TemporaryDirectory(prefix="bench-s1-") as folder, _both(Path(folder)) as both:
        return asyncio.run(_measured(both, options))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Both:
    """The two sides' calls: `generate` by side, and what else is shown of ours."""

    generate: Mapping[str, Call]
    others: Mapping[str, Call]
    start_s: float


@dataclass(slots=True)
class _Times:
    """What a side did, block by block."""

    rps: list[float] = field(default_factory=list)
    latencies: list[Latencies] = field(default_factory=list)

    def median(self, percentile: Callable[[Latencies], float]) -> float:
        return statistics.median(map(percentile, self.latencies))


@contextlib.contextmanager
def _both(folder: Path) -> Iterator[_Both]:
    with contextlib.ExitStack() as stack:
        port = processes.free_port()
        stub = stack.enter_context(
            processes.serving("bench.peers.stub_engine", str(port), port=port, alive="/health", log=folder / "stub.log")
        )
        service = stack.enter_context(services.running(folder, engine_url=stub.url))
        port = processes.free_port()
        command = ("bench.peers.bare_fastapi", str(port), stub.url, str(folder))
        bare = stack.enter_context(processes.serving(*command, port=port, alive="/healthz", log=folder / "bare.log"))
        ours = service.process.url
        asked = {"Content-Type": "application/json", **service.headers}
        yield _Both(
            generate={
                "ours": Call.to(f"{ours}/generate", method="POST", headers=asked, body=ASKED, status=200),
                "peer": Call.to(f"{bare.url}/generate", method="POST", headers=asked, body=ASKED, status=200),
            },
            others={
                "healthz_rps": Call.to(f"{ours}/healthz", status=200),
                "peer_healthz_rps": Call.to(f"{bare.url}/healthz", status=200),
                "job_rps": Call.to(f"{ours}{_job(service)}", headers=service.headers, status=200),
            },
            start_s=service.process.start_s,
        )


def _job(service: services.Service) -> str:
    """Queue a job, which no worker takes, and give its path."""
    with httpx.Client(base_url=service.process.url, headers=dict(service.headers), trust_env=False) as http:
        http.post("/datasets", params={"name": "rows"}, content=ROWS).raise_for_status()
        answer = http.post("/jobs", json={"dataset": "rows", "name": "bench"}).raise_for_status()
        return f"/jobs/{answer.json()['id']}"


async def _measured(both: _Both, options: Options) -> Result:
    seconds, blocks = BLOCK_S[options.shape], options.steps or BLOCKS
    times = {side: _Times() for side in SIDES}
    for side in SIDES:
        await loads.closed(both.generate[side], connections=CONNECTIONS, seconds=seconds)
    for side in SIDES * blocks:
        rps = await loads.closed(both.generate[side], connections=CONNECTIONS, seconds=seconds)
        times[side].rps.append(rps)
    figure, bare = (statistics.median(times[side].rps) for side in SIDES)
    for number, side in enumerate(SIDES * blocks):
        seed = options.seed + number // len(SIDES)
        took = await loads.opened(both.generate[side], rate=figure / 2, seconds=seconds, seed=seed)
        times[side].latencies.append(Latencies.of(took))
    others = {
        name: await loads.closed(call, connections=CONNECTIONS, seconds=seconds) for name, call in both.others.items()
    }
    return Result(
        row="S1",
        figure=figure,
        unit="requests/s",
        peer=Peer(name="bare FastAPI + uvicorn + httpx, same stub engine", figure=bare),
        ratio=figure / bare,
        warmup_s=both.start_s,
        n=len(times["ours"].rps),
        spread=harness.spread(times["ours"].rps),
        device=harness.processor(),
        shape=options.shape,
        versions=harness.versions("fastapi", "uvicorn", "httpx", "sqlalchemy"),
        more=_latencies(times)
        | others
        | {"open_loop_rps": figure / 2, "peer_spread": harness.spread(times["peer"].rps)},
    )


def _latencies(times: Mapping[str, _Times]) -> dict[str, float]:
    """Sum the open loop up: medians of the blocks' percentiles, and what ours adds to the peer's."""
    said: dict[str, float] = {}
    for name in ("p50_ms", "p99_ms"):
        ours, peer = (times[side].median(attrgetter(name)) for side in SIDES)
        said |= {name: ours, f"peer_{name}": peer, f"added_{name}": ours - peer}
    added = [
        ours.p50_ms - peer.p50_ms for ours, peer in zip(times["ours"].latencies, times["peer"].latencies, strict=True)
    ]
    # A share of the median would say little of a difference near zero.
    low, _, high = statistics.quantiles(added, n=4)
    return said | {"added_p50_quartiles_apart_ms": high - low}
