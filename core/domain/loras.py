"""A LoRA's files as bytes, judged before any library reads them: adapter_config.json and the safetensors header.

Adapters are hostile until shown otherwise: a field can name code to import, a header can point outside its file.
Knows no tensors and no folders; whoever loads weights still checks that the values are finite.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.domain.adapters import BrokenAdapter
from core.domain.training import MODULES

MAX_CONFIG_BYTES: Final = 64 * 2**10
MAX_HEADER_BYTES: Final = 2**20
PREFIX: Final = "base_model.model."
WIDTHS: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of one value, by safetensors' names of the types that adapters may have."""

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraConfig(BaseModel):
    """What adapter_config.json may say, under peft's names. Fields not named here must be null, false or empty."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: Annotated[int, Field(ge=1, le=1024)]
    lora_alpha: Annotated[float, Field(gt=0, le=65_536)]
    target_modules: Annotated[list[Module], Field(min_length=1, max_length=len(MODULES))]
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    # Others, such as pissa, change the base's weights when the adapter is put on it.
    init_lora_weights: Literal["gaussian"] | bool = True
    # These say nothing about how the weights are used; none of them is passed on.
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None
    inference_mode: bool = True
    megatron_core: Literal["megatron.core"] | None = None
    qalora_group_size: int = 16


class TensorEntry(BaseModel):
    """One tensor of a safetensors header; offsets count from the end of the header."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    dtype: Literal["F32", "F16", "BF16"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=2, max_length=2)]
    data_offsets: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The weight of one of the base's linear layers is [out, in]."""

    out_features: int
    in_features: int


_ENTRIES: Final = TypeAdapter(dict[str, TensorEntry])


def read_config(raw: bytes, *, max_rank: int) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        BrokenAdapter: It asks for something other than plain LoRA on BlueLM's linear layers, or a rank over `max_rank`.
    """
    try:
        config = LoraConfig.model_validate(_members(raw, "adapter_config.json", limit=MAX_CONFIG_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:100]
        raise BrokenAdapter(f"adapter_config.json, {field}: {first['msg']}.", param=field) from error
    for name, value in (config.model_extra or {}).items():
        if not (value is None or value is False or value in ({}, [])):
            raise BrokenAdapter(
                f"adapter_config.json sets {name[:100]!r}; it must be null, as only plain LoRA is served.",
                param=name[:100],
            )
    if len(set(config.target_modules)) != len(config.target_modules):
        raise BrokenAdapter("adapter_config.json names a target module twice.", param="target_modules")
    if config.r > max_rank:
        raise BrokenAdapter(f"adapter_config.json has r = {config.r}; at most {max_rank} is served.", param="r")
    return config


def largest_file(config: LoraConfig, linears: Mapping[str, Linear]) -> int:
    """Count the bytes that the weights file of such an adapter can have at most."""
    values = sum(rows * columns for _, (rows, columns) in _expected(config, linears))
    return 8 + MAX_HEADER_BYTES + values * max(WIDTHS.values())


def check_header(
    raw: bytes, *, data_bytes: int, config: LoraConfig, linears: Mapping[str, Linear]
) -> Mapping[str, TensorEntry]:
    """Hold a safetensors header against the config and the base, and return its entries.

    Args:
        raw: The header's JSON, without the 8 bytes of its length.
        data_bytes: Size of the file after the header.
        config: Of the same adapter.
        linears: The base's linear layers by module path, such as `model.layers.0.mlp.up_proj`.

    Raises:
        BrokenAdapter: A tensor is missing, unknown or misshapen, or the bytes don't fill the file without gap or overlap.
    """
    members = _members(raw, "The header of adapter_model.safetensors", limit=MAX_HEADER_BYTES)
    members.pop("__metadata__", None)
    try:
        entries = _ENTRIES.validate_python(members)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])[:200]
        raise BrokenAdapter(f"adapter_model.safetensors, {name}: {first['msg']}.") from error
    _check_shapes(entries, dict(_expected(config, linears)))
    _check_offsets(entries, data_bytes)
    return entries


def _expected(config: LoraConfig, linears: Mapping[str, Linear]) -> Iterator[tuple[str, list[int]]]:
    for path, linear in linears.items():
        if path.rpartition(".")[2] in config.target_modules:
            yield f"{PREFIX}{path}.lora_A.weight", [config.r, linear.in_features]
            yield f"{PREFIX}{path}.lora_B.weight", [linear.out_features, config.r]


def _check_shapes(entries: Mapping[str, TensorEntry], expected: Mapping[str, list[int]]) -> None:
    if missing := sorted(expected.keys() - entries.keys()):
        raise BrokenAdapter(f"adapter_model.safetensors lacks {len(missing)} tensors, such as {missing[0]}.")
    if unknown := sorted(entries.keys() - expected.keys()):
        raise BrokenAdapter(
            f"adapter_model.safetensors has {len(unknown)} tensors that this base has no place for, such as {unknown[0][:200]}."
        )
    for name, entry in entries.items():
        if entry.shape != expected[name]:
            raise BrokenAdapter(f"{name} is {entry.shape}, but this base needs {expected[name]}.")


def _check_offsets(entries: Mapping[str, TensorEntry], data_bytes: int) -> None:
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, stop = entry.data_offsets
        if begin != end or stop - begin != math.prod(entry.shape) * WIDTHS[entry.dtype]:
            raise BrokenAdapter(f"{name} lies at other bytes than its shape and its neighbours allow.")
        end = stop
    if end != data_bytes:
        raise BrokenAdapter(f"adapter_model.safetensors holds {data_bytes} bytes of data; its header speaks of {end}.")


def _members(raw: bytes, what: str, *, limit: int) -> dict[str, object]:
    if len(raw) > limit:
        raise BrokenAdapter(f"{what} has {len(raw)} bytes; at most {limit} are read.")
    try:
        parsed = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BrokenAdapter(f"{what} is not JSON.") from error
    if not isinstance(parsed, dict):
        raise BrokenAdapter(f"{what} holds no JSON object.")
    return parsed


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BrokenAdapter("An adapter's JSON names a member twice.")
    return members
