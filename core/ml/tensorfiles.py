"""Writes safetensors files tensor by tensor, so that no shard is ever whole in memory; synced to disk, hashed.

The library's own writer wants all tensors at once. Knows the file format; knows no model.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open

from core.domain.adapters import AdapterFile
from core.ml import blocks
from core.ml.journals import Journal
from core.ml.layouts import TensorInfo

INDEX: Final = "model.safetensors.index.json"
DTYPES: Final = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tensor to write: `blocks` yields its values in order, in as many pieces as suits their maker."""

    name: str
    info: TensorInfo
    blocks: Callable[[], Iterator[torch.Tensor]]


def plan(entries: Sequence[Entry], *, max_bytes: int) -> list[list[Entry]]:
    """Split entries into files of at most `max_bytes`, in order; a larger tensor gets a file of its own."""
    files: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if not files or entry.info.bytes > room:
            files.append([])
            room = max_bytes
        files[-1].append(entry)
        room -= entry.info.bytes
    return files


def write_all(
    folder: Path, entries: Sequence[Entry], *, max_bytes: int, journal: Journal, written: Callable[[int], None]
) -> tuple[AdapterFile, ...]:
    """Write model.safetensors, or numbered shards and their index, and return them; those in the journal are there."""
    parts = plan(entries, max_bytes=max_bytes)
    if len(parts) == 1:
        return (_write_once(folder / "model.safetensors", parts[0], journal=journal, written=written),)
    files: list[AdapterFile] = []
    weight_map: dict[str, str] = {}
    for place, part in enumerate(parts, start=1):
        name = f"model-{place:05d}-of-{len(parts):05d}.safetensors"
        files.append(_write_once(folder / name, part, journal=journal, written=written))
        weight_map |= {entry.name: name for entry in part}
    index = {
        "metadata": {"total_size": sum(entry.info.bytes for entry in entries)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = (json.dumps(index, indent=2) + "\n").encode()
    (folder / INDEX).write_bytes(text)
    return (*files, AdapterFile(name=INDEX, sha256=hashlib.sha256(text).hexdigest(), bytes=len(text)))


def write(path: Path, entries: Sequence[Entry], *, written: Callable[[int], None]) -> AdapterFile:
    """Write one file and return its name, hash and size; `written` is told of each block's bytes.

    Source: https://huggingface.co/docs/safetensors (format).
    """
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        header = _header(entries)
        digest.update(header)
        size += file.write(header)
        for entry in entries:
            for block in entry.blocks():
                values = block.contiguous().reshape(-1).view(torch.uint8).numpy().data
                digest.update(values)
                size += file.write(values)
                written(values.nbytes)
        file.flush()
        os.fsync(file.fileno())
    return AdapterFile(name=path.name, sha256=digest.hexdigest(), bytes=size)


def names(path: Path) -> list[str]:
    """List the tensors of a file, as the library reads it; other files than safetensors have none."""
    if path.suffix != ".safetensors":
        return []
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def read(path: Path, name: str) -> Iterator[torch.Tensor]:
    """Yield a tensor's rows in blocks; the file is mapped anew for each, so that pages read before are let go."""
    with safe_open(path, framework="pt") as file:
        shape = file.get_slice(name).get_shape()
    for start, end in blocks.ranges(shape):
        with safe_open(path, framework="pt") as file:
            yield file.get_slice(name)[start:end]


def _write_once(
    path: Path, entries: Sequence[Entry], *, journal: Journal, written: Callable[[int], None]
) -> AdapterFile:
    if (finished := journal.finished(path.name)) is not None:
        written(sum(entry.info.bytes for entry in entries))
        return finished
    file = write(path, entries, written=written)
    journal.add(file)
    return file


def _header(entries: Sequence[Entry]) -> bytes:
    members: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.info.bytes
        members[entry.name] = {
            "dtype": DTYPES[entry.info.dtype],
            "shape": list(entry.info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(members, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
