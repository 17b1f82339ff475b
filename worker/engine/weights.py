"""An adapter's folder -> checked tensors. Reads three files by name and no other; knows no model and no thread."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from core.domain import loras, loraweights
from core.domain.adapters import BrokenAdapter
from core.domain.generation import TemplateMismatch
from core.domain.linears import Linear
from core.domain.loras import CONFIG, WEIGHTS, LoraConfig

MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A checked adapter, on the CPU; tensors by peft's names, A is [r, in] and B is [out, r]."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What an adapter must fit: the base's linear layers, its chat format, and the largest rank that is served."""

    linears: Mapping[str, Linear]
    template_hash: str
    max_rank: int


def read(folder: Path, fit: Fit) -> Weights:
    """Read and check one adapter. Each file is read once, so that what was checked is what is loaded.

    Raises:
        BrokenAdapter: A file is missing, changed since it was sealed, of another base, or not plain LoRA.
        TemplateMismatch: The adapter was trained with another chat format.
    """
    manifest = _manifest(_bytes(folder, MANIFEST, limit=MAX_MANIFEST_BYTES))
    if manifest.get("template_hash") != fit.template_hash:
        raise TemplateMismatch(
            f"manifest.json has template_hash {str(manifest.get('template_hash'))[:64]!r}, but this base renders chats "
            f"as {fit.template_hash!r}; train the adapter again on this base."
        )
    raw_config = _sealed(folder, CONFIG, manifest, limit=loras.MAX_CONFIG_BYTES)
    config = loras.read_config(raw_config, max_rank=fit.max_rank)
    raw = _sealed(folder, WEIGHTS, manifest, limit=loraweights.largest_file(config, fit.linears))
    reading = loraweights.Reading(config, fit.linears)
    reading.feed(raw)
    reading.finish()
    try:
        return Weights(config=config, tensors=load(raw))
    except SafetensorError as error:
        raise BrokenAdapter(f"{WEIGHTS} can't be read: {str(error)[:200]}.") from error


def _sealed(folder: Path, name: str, manifest: Mapping[str, object], *, limit: int) -> bytes:
    """Read a file that the manifest vouches for."""
    raw = _bytes(folder, name, limit=limit)
    files = manifest.get("files")
    entry = files.get(name) if isinstance(files, dict) else None
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    if expected is None:
        raise BrokenAdapter(f"manifest.json does not list {name}.")
    if hashlib.sha256(raw).hexdigest() != expected:
        raise BrokenAdapter(f"{name} is not the file that manifest.json names.")
    return raw


def _bytes(folder: Path, name: str, *, limit: int) -> bytes:
    path = folder / name
    # A link may lead anywhere, and opening a pipe may never return.
    if path.is_symlink() or not path.is_file():
        raise BrokenAdapter(f"The adapter has no file {name}.")
    with path.open("rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise BrokenAdapter(f"{name} is larger than the {limit} bytes that it can need here.")
    return raw


def _manifest(raw: bytes) -> Mapping[str, object]:
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BrokenAdapter("manifest.json is not JSON.") from error
    if not isinstance(manifest, dict):
        raise BrokenAdapter("manifest.json holds no JSON object.")
    return manifest
