"""Bases and LoRA adapters as models: load one, put the other on it, write it down, check that it does something.

Knows no job and no data. Weights of an adapter are float32 whatever the base is.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from core.ml import attention

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
ADAPTER: Final = "default"

Device = Literal["cpu", "cuda"]


class BadAdapter(ValueError):
    """The weights of an adapter are not those its config names: keys, shapes or values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """What peft needs to know of a LoRA; names are peft's."""

    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: Sequence[str]
    use_rslora: bool = False


def dtype_for(device: Device) -> torch.dtype:
    """Name the precision of a base: bfloat16 on CUDA, float32 on the CPU."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def load_base(folder: Path, device: Device, dtype: torch.dtype, *, attention_name: str = "sdpa") -> PreTrainedModel:
    """Load a Llama checkpoint in safetensors, frozen and in eval mode. No code of the folder is run.

    Args:
        folder: A converted base (core/ml/convert.py).
        device: Where the weights go.
        dtype: Their precision.
        attention_name: `attention.NAME` for flattened rows; `sdpa` where rows are padded or cached.

    Raises:
        OSError: A file is missing or not safetensors.
    """
    attention.register()
    base: PreTrainedModel = LlamaForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention_name,
        device_map={"": device} if device == "cuda" else None,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    base.config.use_cache = False
    return base.requires_grad_(False).eval()


def add_lora(base: PreTrainedModel, lora: Lora) -> PeftModel:
    """Put a fresh LoRA on `base`, in place: A is random (seed torch first), B is zero, both float32.

    `model.unload()` gives the bare base back.
    """
    whole = int(lora.lora_alpha) if float(lora.lora_alpha).is_integer() else lora.lora_alpha
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=whole,
        lora_dropout=lora.lora_dropout,
        target_modules=list(lora.target_modules),
        use_rslora=lora.use_rslora,
        bias="none",
    )
    return get_peft_model(base, config, adapter_name=ADAPTER, autocast_adapter_dtype=True)


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """Return the adapter's tensors under the names that plain peft and vLLM load."""
    weights: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: tensor.detach().contiguous().cpu() for name, tensor in sorted(weights.items())}


def set_adapter_weights(model: PeftModel, weights: Mapping[str, Tensor]) -> None:
    """Replace the adapter's tensors.

    Raises:
        BadAdapter: A tensor is missing, unknown or misshapen.
    """
    _check_shapes(weights, adapter_weights(model))
    set_peft_model_state_dict(model, dict(weights), adapter_name=ADAPTER)


def load_adapter(model: PeftModel, file: Path) -> None:
    """Set the adapter's tensors from a safetensors file.

    Raises:
        BadAdapter: The file holds another adapter's tensors.
        OSError: It can't be read.
    """
    set_adapter_weights(model, load_file(file))


def save_adapter(model: PeftModel, folder: Path, *, base_name: str) -> None:
    """Write a plain peft adapter, the same bytes for the same weights whatever process writes it.

    `PeftModel.save_pretrained` is not used: it adds a model card, asks the hub about the base, names the base by its
    path, and lists `target_modules` in the order of a set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.peft_config[ADAPTER].to_dict()
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    written = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    save_file(adapter_weights(model), folder / WEIGHTS, metadata={"format": "pt"})


def check_adapter(model: PeftModel, file: Path) -> None:
    """Read a written adapter back and compare it with the model that it came from.

    Raises:
        BadAdapter: A value is not finite, or a tensor is missing, unknown, misshapen or changed.
    """
    ours, written = adapter_weights(model), load_file(file)
    _check_shapes(written, ours)
    for name, tensor in written.items():
        if not torch.isfinite(tensor).all():
            raise BadAdapter(f"{name} holds values that are not finite")
        if not torch.equal(tensor, ours[name]):
            raise BadAdapter(f"{name} was not written as it was trained")


@torch.no_grad()
def effect(model: PeftModel, row: Mapping[str, Tensor | int | None]) -> float:
    """Return the largest absolute logit difference that the adapter makes on one row of model inputs."""
    model.eval()
    adapted = model(**row, use_cache=False).logits.float()
    with model.disable_adapter():
        plain = model(**row, use_cache=False).logits.float()
    return float((adapted - plain).abs().max())


def _check_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if missing := sorted(expected.keys() - found.keys()):
        raise BadAdapter(f"{len(missing)} tensors are missing, first {missing[0]}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise BadAdapter(f"{len(unknown)} tensors are unknown, first {unknown[0]}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise BadAdapter(f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
