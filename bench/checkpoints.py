"""Folders in BlueLM's official layout with random weights: .bin shards of equal size, an index, a real tokenizer.model."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from typing import Any, Final

import torch
from sentencepiece import sentencepiece_model_pb2

from bench.shapes import Shape

ASSET: Final = Path(__file__).parents[1] / "assets" / "bluelm-nano"
SHARDS: Final = 8
MARKERS: Final = ("[|Human|]:", "[|AI|]:", "[SEH]", "[SEA]")
SPARE_ROWS: Final = 4
NORMAL: Final = 1
POOL: Final = 2**24


def write(folder: Path, shape: Shape, *, seed: int) -> Path:
    """Lay a folder of this shape, one shard in memory at a time; rows follow the tokenizer where it has more pieces."""
    folder.mkdir(parents=True)
    for name in ("special_tokens_map.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(ASSET / name, folder / name)
    pieces = _write_pieces(folder, wanted=shape.rows - len(MARKERS) - SPARE_ROWS)
    (folder / "added_tokens.json").write_text(json.dumps({MARKERS[0]: pieces, MARKERS[1]: pieces + 1}))
    rows = pieces + len(MARKERS) + SPARE_ROWS
    config: dict[str, Any] = json.loads((ASSET / "config.json").read_text())
    sizes = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
        "vocab_size": rows,
    }
    (folder / "config.json").write_text(json.dumps(config | sizes))
    _write_weights(folder, _sizes(shape, rows=rows), seed=seed)
    return folder


def _write_pieces(folder: Path, *, wanted: int) -> int:
    """Write bluelm-nano's tokenizer, filled up with pairs of its own characters, which it then merges."""
    model = sentencepiece_model_pb2.ModelProto.FromString((ASSET / "tokenizer.model").read_bytes())
    known = {piece.piece for piece in model.pieces}
    letters = [piece.piece for piece in model.pieces if piece.type == NORMAL and len(piece.piece) == 1]
    pairs = (one + two for one, two in product(letters, repeat=2) if one + two not in known)
    for text in islice(pairs, max(0, wanted - len(model.pieces))):
        model.pieces.add(piece=text, score=-float(len(model.pieces)), type=NORMAL)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return len(model.pieces)


def _sizes(shape: Shape, *, rows: int) -> dict[str, tuple[int, ...]]:
    h, i = shape.hidden, shape.intermediate
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (rows, h),
        "model.embed_layer_norm.weight": (h,),
        "model.embed_layer_norm.bias": (h,),
    }
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        sizes |= {f"{at}self_attn.{name}_proj.weight": (h, h) for name in "qkvo"}
        sizes |= {f"{at}mlp.gate_proj.weight": (i, h), f"{at}mlp.up_proj.weight": (i, h)}
        sizes |= {f"{at}mlp.down_proj.weight": (h, i)}
        sizes |= {f"{at}input_layernorm.weight": (h,), f"{at}post_attention_layernorm.weight": (h,)}
    return sizes | {"model.norm.weight": (h,), "lm_head.weight": (rows, h)}


def _write_weights(folder: Path, sizes: Mapping[str, tuple[int, ...]], *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator).mul_(0.02).bfloat16()
    weight_map: dict[str, str] = {}
    for place, names in enumerate(_shards(sizes), start=1):
        file = f"pytorch_model-{place:05d}-of-{SHARDS:05d}.bin"
        torch.save({name: _drawn(pool, sizes[name], generator) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    total = 2 * sum(math.prod(size) for size in sizes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _shards(sizes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    share = sum(math.prod(size) for size in sizes.values()) / SHARDS
    ends, done = [], 0
    for size in sizes.values():
        done += math.prod(size)
        ends.append(done)
    # A tensor belongs to the shard in which its middle lies, so that shards are as even as tensors allow.
    middles = [end - math.prod(size) / 2 for end, size in zip(ends, sizes.values(), strict=True)]
    places = [min(SHARDS - 1, int(middle / share)) for middle in middles]
    yield from ([name for name, its in zip(sizes, places, strict=True) if its == place] for place in range(SHARDS))


def _drawn(pool: torch.Tensor, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Cut a tensor from a pool of normal values at a random place: drawing 7 billion would take minutes."""
    count = math.prod(size)
    start = int(torch.randint(POOL, (1,), generator=generator))
    values = torch.empty(count, dtype=pool.dtype)
    for offset in range(0, count, POOL):
        piece = pool.roll(-start)[: count - offset]
        values[offset : offset + len(piece)] = piece
    return values.view(size) if len(size) > 1 else values.view(size) + 1
