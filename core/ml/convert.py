"""A model folder -> a base: a Llama checkpoint in safetensors, verified, published whole.

Knows the order of the steps; the rooms beside it know layouts, shards, tokenizers and files. No code of the source is
ever run.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from core.domain.adapters import AdapterFile
from core.ml import bluelms, layouts, llamas, records, shards, staging
from core.ml.journals import Journal
from core.ml.progress import Report, Tally
from core.ml.records import Imported, Origin
from core.ml.sources import Source

MAX_SHARD_BYTES: Final = 4 * 2**30


def convert(
    source: Path,
    target: Path,
    *,
    name: str,
    progress: Report,
    origin: Origin | None = None,
    registered: Path | None = None,
    copies: int = 1,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    free_bytes: Callable[[Path], int] = staging.free_bytes,
) -> Imported:
    """Import a folder in BlueLM's official layout, or one in Llama layout as it is.

    The same source twice is done once; an import that was killed goes on after the files that it finished.

    Args:
        source: The folder; nothing in it is changed.
        target: The base's folder. What an earlier import left there is taken if it is the same, and else replaced.
        name: Of the base; only checked and passed on.
        progress: Told of bytes done and bytes to do.
        origin: The repository that the folder was downloaded from.
        registered: A folder with the import.json of the base that bears the name already.
        copies: How often the base's bytes will lie on the target's disk in the end.
        max_shard_bytes: A larger safetensors file is split, between tensors.
        free_bytes: Tells how many bytes a folder's disk still takes.

    Raises:
        UnsupportedCheckpoint: A kind of model that is not imported: 32K, quantised, another architecture.
        DamagedCheckpoint: Files are missing, cut off, altered, or hold values that are no numbers.
        UnsafeCheckpoint: A pickle with more than tensors, a link out of the folder.
        NoRoomForBase: The disk is too small.
        BaseConflict: The name belongs to a base from other files, or `target` holds something else.
    """
    folder = Source(source)
    config = examine(folder, names=(origin.id if origin else str(source), name))
    if layouts.kind(config) == "bluelm":
        plan: bluelms.Plan | llamas.Plan = bluelms.plan(folder, config, max_shard_bytes=max_shard_bytes)
    else:
        plan = llamas.plan(folder, config)
    if registered is None:
        staging.check_room(target, copies * plan.bytes - staging.present_bytes(target), free=free_bytes)
    tally = Tally(plan.work_bytes, progress)
    sources = _hash(folder, plan.files, tally)
    found = (
        records.earlier(target, name=name, sources=sources)
        if registered is None
        else records.registered(registered, name=name, sources=sources)
    )
    if found is None:
        shutil.rmtree(target, ignore_errors=True)
        found = _write(plan, target, name=name, sources=sources, origin=origin, tally=tally)
    tally.finish()
    return found


def examine(folder: Source, *, names: tuple[str, ...]) -> Mapping[str, Any]:
    """Read the config and refuse what it, the names and the code's text alone show; needs no weights yet.

    Args:
        folder: Holds config.json at least.
        names: The folder's path or the hub id, and the base's name.

    Raises:
        UnsupportedCheckpoint: A kind of model that is not imported.
        DamagedCheckpoint: config.json can't be read.
    """
    config = folder.members("config.json")
    if layouts.kind(config) == "bluelm":
        code = folder.text("modeling_bluelm.py") if folder.has("modeling_bluelm.py") else ""
        layouts.refuse_long_context(names=names, config=config, code=code)
    layouts.refuse_quantised(config, {})
    return config


def _write(
    plan: bluelms.Plan | llamas.Plan,
    target: Path,
    *,
    name: str,
    sources: tuple[AdapterFile, ...],
    origin: Origin | None,
    tally: Tally,
) -> Imported:
    with staging.staged(target) as stage:
        journal = Journal.open(stage, made_from=plan.made_from(sources))
        record = replace(plan.write(stage, journal=journal, sources=sources, tally=tally), origin=origin)
        files = (*record.files, records.write(stage, record))
        journal.close()
    return Imported(name=name, path=target, record=record, files=files, reused=False)


def _hash(folder: Source, names: tuple[str, ...], tally: Tally) -> tuple[AdapterFile, ...]:
    hashed = []
    for name in sorted(names):
        sha256 = folder.sha256(name, read=tally.add)
        if name.endswith(".bin"):
            shards.verify_checksums(folder.path(name), read=tally.add)
        hashed.append(AdapterFile(name=name, sha256=sha256, bytes=folder.size(name)))
    return tuple(hashed)
