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
    folder: Path, entries: Sequence[Entry], *, max_bytes: int, written: Callable[[int], None]
) -> tuple[AdapterFile, ...]:
    """Write model.safetensors, or numbered shards and their index, and return what was written."""
    parts = plan(entries, max_bytes=max_bytes)
    if len(parts) == 1:
        return (write(folder / "model.safetensors", parts[0], written=written),)
    files: list[AdapterFile] = []
    weight_map: dict[str, str] = {}
    for place, part in enumerate(parts, start=1):
        name = f"model-{place:05d}-of-{len(parts):05d}.safetensors"
        files.append(write(folder / name, part, written=written))
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


def read(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a file one by one, mapped anew each, so that pages read before are let go; other files: none."""
    if path.suffix != ".safetensors":
        return
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    for name in names:
        with safe_open(path, framework="pt") as file:
            yield name, file.get_tensor(name)


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
