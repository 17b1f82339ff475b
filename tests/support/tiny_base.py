"""Makes tiny Llama bases with BlueLM's chat format: random weights, a tokenizer of single bytes."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM

from core.text import markers

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = [*markers.SPECIALS[:4], *BYTES, "▁", *markers.SPECIALS[4:]]
ROWS = len(PIECES) + 3


@dataclass(frozen=True)
class Shape:
    hidden: int = 64
    intermediate: int = 96
    layers: int = 2
    heads: int = 2
    kv_heads: int = 2
    context: int = 256
    seed: int = 7


def make(folder: Path, shape: Shape = Shape()) -> Path:
    """Write a base in the layout that core/ml/convert.py leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    model(shape).save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}), encoding="utf-8"
    )
    (folder / "chat_template.jinja").write_text(markers.TEMPLATE, encoding="utf-8")
    human = PIECES.index(markers.HUMAN)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, human], "pad_token_id": 3}))
    return folder


def model(shape: Shape = Shape()) -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(shape.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=ROWS,
                hidden_size=shape.hidden,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                max_position_embeddings=shape.context,
                rms_norm_eps=1e-6,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=3,
                tie_word_embeddings=False,
                initializer_range=0.1,
            )
        )


def tokenizer() -> Tokenizer:
    made = Tokenizer(
        models.BPE(
            vocab={piece: id_ for id_, piece in enumerate(PIECES)},
            merges=[],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(list(markers.SPECIALS))
    return made
