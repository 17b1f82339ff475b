"""A folder that is in Llama layout already: checked, copied as it is, fingerprinted."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from core.domain.adapters import AdapterFile
from core.domain.checkpoints import DamagedCheckpoint, UnsupportedCheckpoint
from core.domain.linears import LlamaSizes, linears
from core.ml import blocks, layouts, records, trials
from core.ml.journals import Journal
from core.ml.progress import Tally
from core.ml.records import Record
from core.ml.shards import Weights, finite
from core.ml.sources import Source, chunks
from core.text.chat import Renderer
from core.text.segments import SENTENCEPIECE_FILE

REQUIRED: Final = ("config.json", "tokenizer.json")
OPTIONAL: Final = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    SENTENCEPIECE_FILE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked source; `bytes` on disk, `work_bytes` to read and write."""

    source: Source
    weights: Weights
    rows: int
    dtype: torch.dtype
    files: tuple[str, ...]
    bytes: int
    work_bytes: int

    def made_from(self, sources: tuple[AdapterFile, ...]) -> Mapping[str, Any]:
        """Name all that the bytes to be written depend on."""
        return records.made_from(sources)

    def write(self, stage: Path, *, journal: Journal, sources: tuple[AdapterFile, ...], tally: Tally) -> Record:
        """Copy what the journal lacks of the files into `stage`, see that every value is a number; import.json is left to the caller.

        Raises:
            DamagedCheckpoint: A value is no number, or a file changed while it was copied.
        """
        for file in sources:
            if journal.finished(file.name) == file:
                tally.add(file.bytes)
            else:
                self._copy(file, stage / file.name, tally)
                journal.add(file)
        for name, info in self.weights.tensors.items():
            for block in blocks.split(self.weights.get(name)):
                finite(name, block)
            tally.add(info.bytes)
        renderer = Renderer.load(stage)
        chat = () if renderer.can_chat else ("The folder has no chat template: a base without a chat format.",)
        return Record(
            converter=records.CONVERTER,
            already_llama=True,
            sources=sources,
            files=sources,
            fingerprint=records.fingerprint(sources),
            template_hash=renderer.template_hash,
            context_length=renderer.context_length,
            parameters=sum(info.bytes // info.dtype.itemsize for info in self.weights.tensors.values()),
            rows=self.rows,
            dtype=str(self.dtype).removeprefix("torch."),
            max_ulp=None,
            segment_encoder="sentencepiece" if SENTENCEPIECE_FILE in self.files else "tokenizers",
            checks=("every tensor of the config by name and shape", "every value finite", "every copy by sha256"),
            notes=chat,
            versions=records.versions(),
        )

    def _copy(self, file: AdapterFile, to: Path, tally: Tally) -> None:
        digest = hashlib.sha256()
        with to.open("wb") as copy:
            for chunk in chunks(self.source.path(file.name), file.name):
                digest.update(chunk)
                copy.write(chunk)
                tally.add(len(chunk))
            copy.flush()
            os.fsync(copy.fileno())
        if digest.hexdigest() != file.sha256:
            raise DamagedCheckpoint(f"{file.name} changed while it was copied; import again.")


def plan(source: Source, config: Mapping[str, Any]) -> Plan:
    """Check a Llama folder.

    Raises:
        UnsupportedCheckpoint: No safetensors, no tokenizer.json, another architecture.
        DamagedCheckpoint: Tensors are missing or misshapen, files contradict each other, or the chat template fails.
    """
    architectures = config.get("architectures", ["LlamaForCausalLM"])
    if architectures != ["LlamaForCausalLM"]:
        raise UnsupportedCheckpoint(f"architectures is {str(architectures)[:60]}; expected ['LlamaForCausalLM'].")
    layouts.refuse_quantised(config, {})
    if not source.has("tokenizer.json"):
        raise UnsupportedCheckpoint(
            "The folder has no tokenizer.json; save its fast tokenizer there with transformers (save_pretrained)."
        )
    weights = Weights(source)
    if any(file.endswith(".bin") for file in weights.shards):
        raise UnsupportedCheckpoint(
            "A Llama folder is taken as it is, so its weights must be safetensors; save it anew with save_pretrained."
        )
    layouts.refuse_quantised(config, weights.tensors)
    _check_shapes(config, weights.tensors)
    small = (*REQUIRED, *(name for name in OPTIONAL if source.has(name)))
    for name in small:
        source.small(name)
    if Renderer.load(source.folder).can_chat:
        trials.check(source.folder)
    files = (*small, *weights.files)
    size = sum(source.size(file) for file in files)
    tensors = sum(info.bytes for info in weights.tensors.values())
    return Plan(
        source=source,
        weights=weights,
        rows=weights.tensors[layouts.EMBEDDING].shape[0],
        dtype=layouts.check_dtypes(weights.tensors),
        files=files,
        bytes=size,
        work_bytes=2 * size + tensors,
    )


def _check_shapes(config: Mapping[str, Any], tensors: Mapping[str, layouts.TensorInfo]) -> None:
    rows = config.get("vocab_size")
    if not isinstance(rows, int) or not 0 < rows < 2**24:
        raise DamagedCheckpoint(f"config.json lacks sizes: vocab_size {str(rows)[:20]}.")
    try:
        sizes = LlamaSizes.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DamagedCheckpoint(f"config.json lacks sizes: {first['loc'][0]}: {first['msg']}.") from error
    wrong = [
        f"{name} {list(tensors[name].shape) if name in tensors else 'is missing'}, expected {list(shape)}"
        for name, shape in _shapes(config, sizes).items()
        if name not in tensors or tensors[name].shape != shape
    ]
    if wrong:
        raise DamagedCheckpoint(f"{len(wrong)} tensors are not those of the config: {'; '.join(wrong[:3])}.")


def _shapes(config: Mapping[str, Any], sizes: LlamaSizes) -> dict[str, tuple[int, ...]]:
    h, rows = sizes.hidden_size, config["vocab_size"]
    named: dict[str, tuple[int, ...]] = {layouts.EMBEDDING: (rows, h), "model.norm.weight": (h,)}
    for path, linear in linears(sizes).items():
        named[f"{path}.weight"] = (linear.out_features, linear.in_features)
    for layer in range(sizes.num_hidden_layers):
        at = f"model.layers.{layer}."
        named |= {f"{at}input_layernorm.weight": (h,), f"{at}post_attention_layernorm.weight": (h,)}
    return named if config.get("tie_word_embeddings", False) else named | {layouts.HEAD: (rows, h)}
