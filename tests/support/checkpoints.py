"""Random BlueLM checkpoints of varied sizes, in every container that the importer reads, and their tensors."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.support import bluelm
from tests.support.oracle import BlueLM

Container = Literal["sharded bin", "single bin", "sharded safetensors", "single safetensors"]
CONTAINERS: Final[tuple[Container, ...]] = (
    "sharded bin",
    "single bin",
    "sharded safetensors",
    "single safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One draw: everything about a checkpoint but its type of numbers.

    `config_rows` is what its config claims, which the releases got wrong for months; `shards` counts files where there
    are several; `has_rotary` saves the rotary table along, as some releases do.
    """

    seed: int
    shape: bluelm.Shape
    rows: int
    config_rows: int
    container: Container
    shards: int
    has_rotary: bool
    is_chat: bool

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return bluelm.tensors(self.shape, rows=self.rows, seed=self.seed, dtype=dtype)

    def reference(self, weights: Mapping[str, Tensor]) -> BlueLM:
        """The oracle on these tensors, in fp32."""
        wide = {name: tensor.float() for name, tensor in weights.items()}
        return BlueLM(weights=wide, heads=self.shape.heads, eps=1e-6)

    def write(self, folder: Path, dtype: torch.dtype) -> Path:
        """Lay the folder as a release would."""
        folder.mkdir(parents=True)
        bluelm.write_tokenizer(folder, model=bluelm.pieces(), chat=self.is_chat)
        bluelm.dump(folder / "config.json", bluelm.config(self.shape, rows=self.config_rows, dtype=dtype))
        weights = self.tensors(dtype)
        if self.has_rotary:
            width = self.shape.hidden // self.shape.heads
            table = 1.0 / 10000 ** (torch.arange(0, width, 2) / width)
            weights |= {
                f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": table.clone()
                for layer in range(self.shape.layers)
            }
        match self.container:
            case "sharded bin":
                bluelm.write_weights(folder, weights, shards=self.shards)
            case "single bin":
                torch.save(weights, folder / "pytorch_model.bin")
            case "single safetensors":
                save_file(weights, folder / "model.safetensors")
            case "sharded safetensors":
                _write_safetensors(folder, weights, shards=self.shards)
        return folder


def draw(seed: int) -> Checkpoint:
    """Draw one; fifty draws hold every container, one to eight heads of 4 to 96, one to four layers."""
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4, 5, 8])
    width = rng.choice([width for width in (4, 8, 12, 16, 32, 64, 96) if heads * width <= 256])
    spare = rng.choice([0, 1, 4, 88, rng.randint(0, 300)])
    rows = bluelm.processor(bluelm.pieces()).get_piece_size() + len(bluelm.MARKERS) + spare
    return Checkpoint(
        seed=seed,
        shape=bluelm.Shape(
            hidden=heads * width,
            intermediate=rng.randint(5, 400),
            layers=rng.randint(1, 4),
            heads=heads,
            context=rng.choice([64, 128, 2048]),
        ),
        rows=rows,
        config_rows=rng.choice([rows, rows, rows + 88, 100096, 1]),
        container=CONTAINERS[seed % len(CONTAINERS)],
        shards=rng.randint(2, 8),
        has_rotary=rng.random() < 0.3,
        is_chat=rng.random() < 0.8,
    )


def _write_safetensors(folder: Path, weights: Mapping[str, Tensor], *, shards: int) -> None:
    names = list(weights)
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(weight.nbytes for weight in weights.values())
    bluelm.dump(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
