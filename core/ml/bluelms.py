"""BlueLM's official layout -> Llama: plan what to write, write it, and hold it against the source.

Source: vivo-ai-lab/BlueLM, modeling_bluelm.py as published (read, never run).
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.domain.adapters import AdapterFile
from core.domain.checkpoints import DamagedCheckpoint
from core.ml import blocks, folding, layouts, records, tensorfiles, tokenizerfiles
from core.ml.journals import Journal
from core.ml.layouts import EMBEDDING, NORM_BIAS, NORM_WEIGHT, Layout
from core.ml.progress import Tally
from core.ml.records import Record
from core.ml.shards import Weights, finite
from core.ml.sources import Source
from core.ml.tensorfiles import Entry
from core.ml.tokenizerfiles import Tokens
from core.text.chat import Renderer

MAX_ULP = {torch.bfloat16: 1.0, torch.float16: 1.0, torch.float32: 8.0}
"""What a folded row may differ from torch's LayerNorm; fp32 leaves a few units to the order of its sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked source, ready to be written; `bytes` on disk, `work_bytes` to read and write."""

    weights: Weights
    tokens: Tokens
    layout: Layout
    rows: int
    dtype: torch.dtype
    files: tuple[str, ...]
    bytes: int
    work_bytes: int
    max_shard_bytes: int

    def made_from(self, sources: tuple[AdapterFile, ...]) -> Mapping[str, Any]:
        """Name all that the bytes to be written depend on."""
        return records.made_from(sources) | {"max_shard_bytes": self.max_shard_bytes}

    def write(self, stage: Path, *, journal: Journal, sources: tuple[AdapterFile, ...], tally: Tally) -> Record:
        """Write what the journal lacks of the base's files into `stage`, verify all; import.json is left to the caller.

        Raises:
            DamagedCheckpoint: A value is no number, or what was written is not what it should be.
        """
        written = self._write_weights(stage, journal, tally)
        tokenizer = tokenizerfiles.write(stage, self.tokens, context=self.layout.context)
        for file, members in (("config.json", self._config()), ("generation_config.json", self._generation_config())):
            (stage / file).write_text(json.dumps(members, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        max_ulp = self._verify(stage, written, tally)
        small = ("config.json", "generation_config.json", *tokenizer.names)
        files = (*written, *(records.hashed(stage / file) for file in small))
        renderer = Renderer.load(stage)
        return Record(
            converter=records.CONVERTER,
            already_llama=False,
            sources=sources,
            files=files,
            fingerprint=records.fingerprint(files),
            template_hash=renderer.template_hash,
            context_length=renderer.context_length,
            parameters=sum(math.prod(shape) for shape in self.layout.shapes(rows=self.rows).values()),
            rows=self.rows,
            dtype=str(self.dtype).removeprefix("torch."),
            max_ulp=max_ulp,
            segment_encoder=tokenizer.segment_encoder,
            checks=(
                "every tensor by name, shape and type",
                "every value finite",
                "every folded row against torch's LayerNorm",
                "every other tensor reloaded and equal to its source",
                f"the tokenizer against SentencePiece on every piece and {tokenizerfiles.PROBES} mixed texts",
            ),
            notes=tokenizer.notes,
            versions=records.versions(),
        )

    def _write_weights(self, stage: Path, journal: Journal, tally: Tally) -> tuple[AdapterFile, ...]:
        shapes = self.layout.shapes(rows=self.rows)
        entries = [
            Entry(name=name, info=layouts.TensorInfo(shape, self.dtype), blocks=self._blocks(name))
            for name, shape in shapes.items()
        ]
        return tensorfiles.write_all(stage, entries, max_bytes=self.max_shard_bytes, journal=journal, written=tally.add)

    def _blocks(self, name: str) -> Callable[[], Iterator[torch.Tensor]]:
        def plain() -> Iterator[torch.Tensor]:
            for block in blocks.split(self.weights.get(name)):
                yield finite(name, block)

        def folded() -> Iterator[torch.Tensor]:
            weight_H, bias_H = self._norm()
            for block_RH in blocks.split(self.weights.get(name)):
                yield finite(name, folding.fold(finite(name, block_RH), weight_H, bias_H, eps=self.layout.eps))

        return folded if name == EMBEDDING else plain

    def _norm(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight_H, bias_H = (finite(name, self.weights.get(name).clone()) for name in (NORM_WEIGHT, NORM_BIAS))
        return weight_H, bias_H

    def _verify(self, stage: Path, written: tuple[AdapterFile, ...], tally: Tally) -> float:
        """Read back what lies on disk and compare it with the source, tensor by tensor.

        Returns:
            The largest difference of a folded row from torch's LayerNorm, in units in the last place.
        """
        worst = 0.0
        weight_H, bias_H = self._norm()
        for path in (stage / file.name for file in written):
            for name in tensorfiles.names(path):
                pairs = zip(tensorfiles.read(path, name), blocks.split(self.weights.get(name)), strict=True)
                for new, old in pairs:
                    if name == EMBEDDING:
                        apart = folding.difference_ulp(new, old, weight_H, bias_H, eps=self.layout.eps)
                        worst = max(worst, apart)
                    elif not torch.equal(new, old):
                        raise DamagedCheckpoint(f"{name} reads back otherwise than it was written; is the disk sound?")
                    tally.add(new.numel() * new.element_size())
        if not worst <= MAX_ULP[self.dtype]:
            raise DamagedCheckpoint(
                f"A folded embedding row differs from the LayerNorm by {worst:.1f} units; expected {MAX_ULP[self.dtype]}."
            )
        return worst

    def _config(self) -> Mapping[str, Any]:
        layout, ids = self.layout, self.tokens.pieces.ids
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": ids["<s>"],
            "eos_token_id": ids["</s>"],
            "head_dim": layout.hidden // layout.heads,
            "hidden_act": "silu",
            "hidden_size": layout.hidden,
            "initializer_range": 0.02,
            "intermediate_size": layout.intermediate,
            "max_position_embeddings": layout.context,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": layout.heads,
            "num_hidden_layers": layout.layers,
            "num_key_value_heads": layout.heads,
            "pad_token_id": ids["<pad>"],
            "rms_norm_eps": layout.eps,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": str(self.dtype).removeprefix("torch."),
            "use_cache": True,
            "vocab_size": self.rows,
        }

    def _generation_config(self) -> Mapping[str, Any]:
        """End at `</s>`, and at a user's marker that the model writes itself; no sampling values."""
        ids, human = self.tokens.pieces.ids, self.tokens.human
        ends = [ids["</s>"], *([] if human is None else [human])]
        return {"bos_token_id": ids["<s>"], "eos_token_id": ends, "pad_token_id": ids["<pad>"]}


def plan(source: Source, config: Mapping[str, Any], *, max_shard_bytes: int) -> Plan:
    """Check everything that can be known before a byte is written.

    Raises:
        UnsupportedCheckpoint: Config or tensors are not those of a 2K BlueLM.
        DamagedCheckpoint: Files are missing, torn or contradict each other.
        UnsafeCheckpoint: A pickle asks for more than tensors.
    """
    layout = layouts.read(config)
    weights = Weights(source)
    layouts.refuse_quantised(config, weights.tensors)
    rows = layouts.check_tensors(layout, weights.tensors)
    tokens = tokenizerfiles.read(source, rows=rows)
    _check_ids(config, tokens)
    files = ("config.json", *weights.files, *tokens.files)
    dtype = weights.tensors[EMBEDDING].dtype
    size = sum(math.prod(shape) for shape in layout.shapes(rows=rows).values()) * dtype.itemsize
    read = sum(source.size(file) for file in files) + sum(source.size(file) for file in weights.shards)
    return Plan(
        weights=weights,
        tokens=tokens,
        layout=layout,
        rows=rows,
        dtype=dtype,
        files=files,
        bytes=size,
        work_bytes=read + 2 * size,
        max_shard_bytes=max_shard_bytes,
    )


def _check_ids(config: Mapping[str, Any], tokens: Tokens) -> None:
    for field, text in (("bos_token_id", "<s>"), ("eos_token_id", "</s>"), ("pad_token_id", "<pad>")):
        expected = tokens.pieces.ids[text]
        if config.get(field, expected) not in (expected, None):
            raise DamagedCheckpoint(
                f"config.json says {field} {str(config[field])[:20]}, tokenizer.model has {text} at {expected}; "
                "one of them is another model's."
            )
