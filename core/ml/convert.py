"""A model folder -> a base: a Llama checkpoint in safetensors, verified, published whole.

`python -m core.ml.convert SOURCE TARGET --name NAME` prints JSON lines: `{"progress": {"done_bytes", "total_bytes"}}`,
and last the import, or `{"error": {"code", "message"}}` with exit status 3. No code of the source is ever run.
Knows the order of the steps; the rooms beside it know layouts, shards, tokenizers and files.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from core.domain.adapters import AdapterFile
from core.errors import Problem
from core.ml import bluelms, hub, layouts, llamas, records, shards, staging
from core.ml.progress import Report, Tally
from core.ml.records import Imported
from core.ml.sources import Source

MAX_SHARD_BYTES: Final = 4 * 2**30


def convert(
    source: Path,
    target: Path,
    *,
    name: str,
    progress: Report,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    free_bytes: Callable[[Path], int] = staging.free_bytes,
) -> Imported:
    """Import a folder in BlueLM's official layout, or one in Llama layout as it is.

    The same source twice is done once: what lies in `target` is verified and returned.

    Args:
        source: The folder; nothing in it is changed.
        target: The base's folder, which must not be there yet, unless from the same source.
        name: Of the base; only checked and passed on.
        progress: Told of bytes done and bytes to do.
        max_shard_bytes: A larger safetensors file is split, between tensors.
        free_bytes: Tells how many bytes a folder's disk still takes.

    Raises:
        UnsupportedCheckpoint: A kind of model that is not imported: 32K, quantised, another architecture.
        DamagedCheckpoint: Files are missing, cut off, altered, or hold values that are no numbers.
        UnsafeCheckpoint: A pickle with more than tensors, a link out of the folder.
        NoRoomForBase: The disk is too small.
        BaseConflict: `target` holds something else.
    """
    folder = Source(source)
    config = folder.members("config.json")
    if layouts.kind(config) == "bluelm":
        layouts.refuse_long_context(
            names=(str(source), name),
            config=config,
            code=folder.text("modeling_bluelm.py") if folder.has("modeling_bluelm.py") else "",
        )
        layouts.refuse_quantised(config, {})
        plan: bluelms.Plan | llamas.Plan = bluelms.plan(folder, config, max_shard_bytes=max_shard_bytes)
    else:
        plan = llamas.plan(folder, config)
    if not target.exists():
        staging.check_room(target, plan.bytes, free=free_bytes)
    tally = Tally(plan.work_bytes, progress)
    sources = _hash(folder, plan.files, tally)
    if (earlier := records.earlier(target, name=name, sources=sources)) is not None:
        tally.finish()
        return earlier
    with staging.staged(target) as stage:
        record = plan.write(stage, sources=sources, tally=tally)
        files = (*record.files, records.write(stage, record))
    tally.finish()
    return Imported(name=name, path=target, record=record, files=files, reused=False)


def _hash(folder: Source, names: tuple[str, ...], tally: Tally) -> tuple[AdapterFile, ...]:
    hashed = []
    for name in sorted(names):
        sha256 = folder.sha256(name, read=tally.add)
        if name.endswith(".bin"):
            shards.verify_checksums(folder.path(name), read=tally.add)
        hashed.append(AdapterFile(name=name, sha256=sha256, bytes=folder.size(name)))
    return tuple(hashed)


def main(arguments: list[str] | None = None) -> int:
    """Run one import as a child process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m core.ml.convert", description=__doc__)
    parser.add_argument("source", help="a folder, or a hub id such as vivo-ai/BlueLM-7B-Chat")
    parser.add_argument("target", type=Path, help="the base's folder")
    parser.add_argument("--name", required=True, help="the base's name")
    given = parser.parse_args(arguments)

    def say(line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def report(done: int, total: int) -> None:
        say({"progress": {"done_bytes": done, "total_bytes": total}})

    try:
        if "32k" in given.source.lower():
            layouts.refuse_long_context(names=(given.source,), config={}, code="")
        source = hub.find(given.source, downloads=given.target.parent / ".downloads")
        say(convert(source, given.target, name=given.name, progress=report).members())
    except Problem as problem:
        say({"error": {"code": problem.code, "message": problem.detail}})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
