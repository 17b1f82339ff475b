"""Tiny folders in BlueLM's official layout: random weights, sharded .bin files, a SentencePiece model trained here."""

import functools
import io
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from core.domain.datasets import Conversation, Turn
from core.text.chat import Renderer
from core.text.folders import BlueLMChat

SENTENCES = (
    "今天天气很好，我们一起去公园散步吧。",
    "你是谁？我是一个语言模型，很高兴认识你。",
    "请问北京的面积有多大？大约一万六千平方公里。",
    "The quick brown fox jumps over the lazy dog 123 456.",
    "hello world, how are you? I am fine, thank you!",
    "吃饭了吗？还没有，等你一起。第一行\t第二列",
    "学习使人进步；读书使人明智。（完）：“好”",
)
MARKERS = ("[|Human|]:", "[|AI|]:", "[SEH]", "[SEA]")


@functools.cache
def pieces(
    vocab_size: int = 640, normalization: str = "identity", remove_extra_whitespaces: bool = False, **options: Any
) -> bytes:
    """Train a SentencePiece BPE model with BlueLM's settings on a few shuffled sentences."""
    rng = random.Random(7)
    lines = ["".join(rng.sample(SENTENCES, 2)) for _ in range(300)]
    lines += [" ".join(rng.choices(["the", "thing", "then", "中国", "中国人", "人民", "  "], k=6)) for _ in range(300)]
    return trained(
        lines,
        vocab_size=vocab_size,
        character_coverage=0.999,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=remove_extra_whitespaces,
        **options,
    )


def trained(lines: Iterable[str], *, vocab_size: int, **options: Any) -> bytes:
    """Train a SentencePiece BPE model on these lines, with BlueLM's settings unless others are given."""
    written = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "byte_fallback": True,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": 3,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "num_threads": 1,
        "minloglevel": 2,
        "hard_vocab_limit": False,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=vocab_size, **(settings | options)
    )
    return written.getvalue()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a tiny BlueLM; `spare_rows` are rows past the last added token, as in 100096-row checkpoints."""

    hidden: int = 32
    intermediate: int = 56
    layers: int = 2
    heads: int = 4
    spare_rows: int = 4
    context: int = 128


def tensors(shape: Shape, *, rows: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Draw random weights with BlueLM's names, the pad row zero as a trained embedding's is."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, mean: float = 0.0, std: float = 0.08) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) * std + mean).to(dtype)

    h, i = shape.hidden, shape.intermediate
    made = {
        "model.embed_tokens.weight": normal(rows, h, std=0.5),
        "model.embed_layer_norm.weight": normal(h, mean=1.0, std=0.2),
        "model.embed_layer_norm.bias": normal(h, std=0.2),
    }
    made["model.embed_tokens.weight"][3] = 0
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        made |= {f"{at}self_attn.{name}_proj.weight": normal(h, h) for name in "qkvo"}
        made |= {f"{at}mlp.{name}_proj.weight": normal(i, h) for name in ("gate", "up")}
        made[f"{at}mlp.down_proj.weight"] = normal(h, i)
        made[f"{at}input_layernorm.weight"] = normal(h, mean=1.0)
        made[f"{at}post_attention_layernorm.weight"] = normal(h, mean=1.0)
    return made | {"model.norm.weight": normal(h, mean=1.0), "lm_head.weight": normal(rows, h)}


def config(shape: Shape, *, rows: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """Write the config of a 2K BlueLM with these sizes."""
    return {
        "architectures": ["BlueLMForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_bluelm.BlueLMConfig",
            "AutoModelForCausalLM": "modeling_bluelm.BlueLMForCausalLM",
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "model_type": "BlueLM",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "pad_token_id": 3,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        "use_stable_embedding": True,
        "vocab_size": rows,
    }


def write_tokenizer(folder: Path, *, model: bytes, chat: bool = True) -> None:
    """Lay the tokenizer's files as the releases do: two markers in added_tokens.json, two only among the specials."""
    first = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    (folder / "tokenizer.model").write_bytes(model)
    specials: dict[str, Any] = {
        "bos_token": {"content": "<s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
        "eos_token": {"content": "</s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
        "pad_token": {"content": "<pad>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
        "unk_token": {"content": "<unk>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False},
    }
    if chat:
        dump(folder / "added_tokens.json", {MARKERS[1]: first + 1, MARKERS[0]: first})
        specials["additional_special_tokens"] = list(MARKERS)
    dump(folder / "special_tokens_map.json", specials)
    dump(folder / "tokenizer_config.json", {"tokenizer_class": "BlueLMTokenizer", "add_bos_token": True})


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], *, shards: int) -> None:
    """Save sharded .bin files and their index, names in the model's order, cut by count."""
    names = list(weights)
    cuts = [round(len(names) * n / shards) for n in range(shards + 1)]
    weight_map: dict[str, str] = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        part = names[cuts[shard] : cuts[shard + 1]]
        torch.save({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    dump(folder / "pytorch_model.bin.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def write(
    folder: Path,
    *,
    shape: Shape | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    shards: int = 3,
    chat: bool = True,
    model: bytes | None = None,
) -> Path:
    """Lay a whole BlueLM folder and return it."""
    shape, model = shape or Shape(), model or pieces()
    folder.mkdir(parents=True)
    rows = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() + len(MARKERS) + shape.spare_rows
    write_tokenizer(folder, model=model, chat=chat)
    dump(folder / "config.json", config(shape, rows=rows, dtype=dtype))
    dump(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3})
    (folder / "modeling_bluelm.py").write_text("raise RuntimeError('remote code must never run')\n")
    write_weights(folder, tensors(shape, rows=rows, seed=seed, dtype=dtype), shards=shards)
    return folder


def dump(path: Path, value: Any) -> None:
    """Write JSON as the releases do."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def edit(path: Path, **changes: Any) -> None:
    """Change members of a JSON file; a value of ... removes the member."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    dump(path, {name: member for name, member in value.items() if member is not ...})


def turn(role: str, content: str, weight: float = 1.0) -> Turn:
    """Make a turn of a role that mypy can't know."""
    return Turn(role, content, weight)  # type: ignore[arg-type]


def conversation(*turns: tuple[str, str], line: int = 1) -> Conversation:
    """Make a training row of turns of weight 1."""
    return Conversation(tuple(turn(role, content) for role, content in turns), line)


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Open a model with SentencePiece itself."""
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def chat_of(renderer: Renderer) -> BlueLMChat:
    """Look inside a BlueLM's renderer."""
    assert isinstance(renderer._chat, BlueLMChat)
    return renderer._chat
