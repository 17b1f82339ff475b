"""Import row: I7, a folder in BlueLM's official layout imported by the command, with its time, memory and disk."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import checkpoints, harness, processes
from bench.harness import Options, Peer, Result
from bench.shapes import SHAPES

LOOK_S: Final = 0.02
CONVERTER: Final = "core.ml.importing"
RESAVE: Final = "bench.peers.resave"
MIB: Final = 2**20


def i7(options: Options) -> Result:
    """Import random weights by `bluelora import`; `figure` is MB of the source a second, the storing included.

    `n` counts the looks at the child's memory, one each 20 ms. `--steps` has no meaning here: one import.
    """
    with tempfile.TemporaryDirectory(prefix="bench-i7-") as name:
        folder = Path(name)
        began = time.perf_counter()
        source = checkpoints.write(folder / "source", SHAPES[options.shape], seed=options.seed)
        made_s = time.perf_counter() - began
        size = sum(path.stat().st_size for path in source.iterdir())
        shard = max(path.stat().st_size for path in source.glob("*.bin"))
        command = ["-m", "cli", "import", str(source), "--name", "bench", "--data-dir", str(folder / "data"), "--json"]
        first = _watched(command, module=CONVERTER, folder=folder / "data")
        again = _watched(command, module=CONVERTER, folder=folder / "data")
        shutil.rmtree(folder / "data")
        peer = _watched(["-m", RESAVE, str(source), str(folder / "resaved")], module=RESAVE, folder=folder / "resaved")
        said = json.loads(first.said.splitlines()[-1])
        return _result(first, again, peer, said=said, size=size, shard=shard, made_s=made_s, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """A command that has ended; `child_s` and `peak_bytes` are of its process that runs the module watched for."""

    seconds: float
    child_s: float
    peak_bytes: int
    disk_bytes: int
    looks: int
    said: str


def _watched(arguments: list[str], *, module: str, folder: Path) -> _Watched:
    looks = peak = disk = 0
    seen: list[float] = []
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, *arguments], cwd=processes.ROOT, stdout=said)
        while process.poll() is None:
            held = processes.children_peak_bytes(process.pid if module == CONVERTER else os.getpid(), module=module)
            if held:
                looks, peak = looks + 1, max(peak, held)
                seen.append(time.perf_counter())
            disk = max(disk, _bytes(folder))
            time.sleep(LOOK_S)
        took = time.perf_counter() - began
        said.seek(0)
        if process.returncode:
            raise RuntimeError(f"{arguments[1]} failed with {process.returncode}")
        return _Watched(
            seconds=took,
            child_s=seen[-1] - seen[0] if seen else 0.0,
            peak_bytes=peak,
            disk_bytes=disk,
            looks=looks,
            said=said.read(),
        )


def _bytes(folder: Path) -> int:
    """Add up the files below a folder while others write there."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            total += path.stat().st_size if path.exists() else 0
    return total


def _result(
    first: _Watched,
    again: _Watched,
    peer: _Watched,
    *,
    said: dict[str, Any],
    size: int,
    shard: int,
    made_s: float,
    options: Options,
) -> Result:
    figure, other = size / first.seconds / 1e6, size / peer.seconds / 1e6
    return Result(
        row="I7",
        figure=figure,
        unit="MB/s",
        peer=Peer(name="torch.load and safetensors.save_file of each shard, nothing checked or synced", figure=other),
        ratio=figure / other,
        warmup_s=made_s,
        n=first.looks,
        spread=0.0,
        device=harness.processor(),
        shape=options.shape,
        versions=harness.versions("torch", "safetensors", "tokenizers"),
        more={
            "source_bytes": size,
            "base_bytes": said["bytes"],
            "parameters": said["parameters"],
            "rows": said["rows"],
            "max_ulp": said["max_ulp"],
            "import_s": first.seconds,
            "converter_s": first.child_s,
            "again_s": again.seconds,
            "peer_s": peer.seconds,
            "largest_shard_mib": shard / MIB,
            "peak_mib": first.peak_bytes / MIB,
            "beyond_shard_mib": (first.peak_bytes - shard) / MIB,
            "peer_peak_mib": peer.peak_bytes / MIB,
            "disk_mib": first.disk_bytes / MIB,
            "load_average": os.getloadavg()[0],
        },
    )
