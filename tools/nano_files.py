"""Writes a BlueLM in its official file layout. Knows the layout; knows nothing of how the weights came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tools.nano_model import BlueLM, Shape
from tools.nano_tokenizer import ADDED, AI, BOS, EOS, HUMAN, PAD

SHARDS = 2
CONTEXT = 2048


def write(folder: Path, model: BlueLM, shape: Shape, tokenizer_model: bytes) -> None:
    """Write weights, configuration and tokenizer into `folder`, which may exist."""
    folder.mkdir(parents=True, exist_ok=True)
    _weights(folder, {name: tensor.detach().to(torch.bfloat16) for name, tensor in model.state_dict().items()})
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    _json(folder / "config.json", _config(shape))
    _json(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    _json(folder / "added_tokens.json", {ADDED[1]: AI, ADDED[0]: HUMAN})
    _json(folder / "special_tokens_map.json", _special_tokens())
    _json(folder / "tokenizer_config.json", _tokenizer_config())


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    total = sum(tensor.nbytes for tensor in tensors.values())
    shards: list[dict[str, Tensor]] = [{} for _ in range(SHARDS)]
    filled = 0
    for name, tensor in tensors.items():
        # A clone owns exactly its bytes; torch.save would write a view's whole storage.
        shards[min(filled * SHARDS // total, SHARDS - 1)][name] = tensor.clone()
        filled += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"pytorch_model-{number:05d}-of-{SHARDS:05d}.bin"
        torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    _json(folder / "pytorch_model.bin.index.json", index)


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["BlueLMForCausalLM"],
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": CONTEXT,
        "model_type": "BlueLM",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "pad_token_id": PAD,
        "rms_norm_eps": shape.eps,
        "rope_scaling": None,
        "rope_theta": shape.theta,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_stable_embedding": True,
        "vocab_size": shape.rows,
    }


def _special_tokens() -> dict[str, object]:
    return {
        "additional_special_tokens": list(ADDED),
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": CONTEXT,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "tokenizer_class": "BlueLMTokenizer",
        "unk_token": "<unk>",
    }


def _json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
