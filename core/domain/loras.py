"""What an adapter_config.json may say, judged before any library reads it, and what we write in its place.

Adapters are hostile until shown otherwise: a field can name code to import or a pattern to match. Knows no weights
(core/domain/loraweights.py) and no folders.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from core.domain.adapters import BrokenAdapter, broken
from core.domain.linears import Linear
from core.domain.training import MODULES

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MAX_CONFIG_BYTES: Final = 64 * 2**10
PREFIX: Final = "base_model.model."

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

_ONLY: Final = "It must be null: only plain LoRA is served."
_HINTS: Final[Mapping[str, str]] = {
    "peft_type": "Only LORA is served.",
    "task_type": "It is CAUSAL_LM or null.",
    "target_modules": f"It is a list of some of {', '.join(MODULES)}: no pattern, and no embedding or head.",
    "bias": "It must be none: the base's layers have no biases.",
    "init_lora_weights": "Others than these change the base's weights too; save such an adapter with peft's "
    "path_initial_model_for_weight_conversion, which makes a plain one.",
    "modules_to_save": "It must be null: whole modules beside the LoRA are not served. A trained embed_tokens would not "
    "fit either, as the base's table is folded.",
    "trainable_token_indices": "It must be null: trained embeddings don't fit the base, whose table is folded.",
    "rank_pattern": "It must be empty: all modules have the one r.",
    "alpha_pattern": "It must be empty: all modules have the one lora_alpha.",
    "layers_to_transform": "It must be null: every layer is adapted.",
    "use_dora": "It must be false: DoRA is not served; train plain LoRA.",
    "auto_mapping": "It must be null: no code is imported for an adapter.",
}


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
    init_lora_weights: Literal[True, False, "gaussian", "eva", "orthogonal"] = True
    # These say nothing about how the weights are used; none of them is passed on.
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+_-]{1,60}$")] | None = None
    inference_mode: bool = True
    megatron_core: Literal["megatron.core"] | None = None
    qalora_group_size: int = 16


def read_config(raw: bytes, *, max_rank: int) -> LoraConfig:
    """Read adapter_config.json.

    Raises:
        BrokenAdapter: It asks for something other than plain LoRA on BlueLM's linear layers, or a rank over `max_rank`.
    """
    try:
        config = LoraConfig.model_validate(members(raw, CONFIG, limit=MAX_CONFIG_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:100]
        raise _refused(field, f"{first['msg']}.", code="invalid_value") from error
    for name, value in (config.model_extra or {}).items():
        if not (value is None or value is False or value in ({}, [])):
            raise _refused(name[:100], "it is set.", code="unsupported_value")
    if len(set(config.target_modules)) != len(config.target_modules):
        raise _refused("target_modules", "it names a module twice.", code="invalid_value")
    if config.r > max_rank:
        hint = f"Ranks of at most {max_rank} are served here."
        raise broken("rank_too_high", f"{CONFIG}, r: it is {config.r}.", field="r", hint=hint)
    return LoraConfig.model_validate({name: getattr(config, name) for name in LoraConfig.model_fields})


def canonical(config: LoraConfig, *, base_name: str) -> bytes:
    """Write the adapter_config.json that we keep: the same meaning in our words, loadable by plain peft and by vLLM.

    Nothing of the text that came is passed on but numbers and names of modules.
    """
    alpha, dropout = config.lora_alpha, config.lora_dropout
    written: dict[str, Any] = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": sorted(config.target_modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": config.use_rslora,
    }
    return (json.dumps(written, indent=2, sort_keys=True) + "\n").encode()


def shapes(config: LoraConfig, linears: Mapping[str, Linear]) -> Iterator[tuple[str, list[int]]]:
    """Name each tensor of such an adapter as peft does, with its shape: A is [r, in], B is [out, r]."""
    for path, linear in linears.items():
        if path.rpartition(".")[2] in config.target_modules:
            yield f"{PREFIX}{path}.lora_A.weight", [config.r, linear.in_features]
            yield f"{PREFIX}{path}.lora_B.weight", [linear.out_features, config.r]


def members(raw: bytes, what: str, *, limit: int) -> dict[str, object]:
    """Read a JSON object as every strict reader would: UTF-8, each member named once.

    Raises:
        BrokenAdapter: It is none, or larger than `limit` bytes.
    """
    if len(raw) > limit:
        raise broken("too_large", f"{what} has {len(raw)} bytes; at most {limit} are read.")
    try:
        text = raw.decode()
        parsed = json.loads(text, object_pairs_hook=_without_duplicates)
        if "\\u" in text:  # half a character, escaped, is text to Python alone
            json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise broken("malformed_json", f"{what} is not JSON.") from error
    if not isinstance(parsed, dict):
        raise broken("malformed_json", f"{what} holds no JSON object.")
    return parsed


def _refused(field: str, message: str, *, code: str) -> BrokenAdapter:
    name = field.partition(".")[0]
    hint = _HINTS.get(name, _ONLY if name not in LoraConfig.model_fields else None)
    return broken(code, f"{CONFIG}, {field}: {message}", field=field, hint=hint)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise broken("duplicate_key", "An adapter's JSON names a member twice.")
    return found
