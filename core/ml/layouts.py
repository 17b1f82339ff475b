"""What kind of model a folder holds, from its config and its tensors' names and shapes. Knows no bytes of weights.

A BlueLM-7B (2K) is a Llama with one LayerNorm after the token embedding. What is not exactly that is refused, since
an importer that guesses gives a model that runs and is wrong.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch

from core.domain.checkpoints import (
    DamagedCheckpoint,
    LongContextCheckpoint,
    QuantisedCheckpoint,
    UnsupportedCheckpoint,
)

EMBEDDING: Final = "model.embed_tokens.weight"
NORM_WEIGHT: Final = "model.embed_layer_norm.weight"
NORM_BIAS: Final = "model.embed_layer_norm.bias"
HEAD: Final = "lm_head.weight"
CONTEXT: Final = 2048
LIMITS: Final = {
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
}
FLOATS: Final = (torch.bfloat16, torch.float16, torch.float32)
PACKED_ENDINGS: Final = (".qweight", ".qzeros", ".scales", ".g_idx", ".weight_scale", "_zeros", "_scales")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's shape and type, known before its values are read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its size as stored contiguously."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The sizes of a BlueLM; everything else about it is fixed."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    context: int
    eps: float

    def shapes(self, *, rows: int) -> dict[str, tuple[int, ...]]:
        """Name every tensor after conversion, in the order in which they are written, with its shape."""
        h, i = self.hidden, self.intermediate
        named: dict[str, tuple[int, ...]] = {EMBEDDING: (rows, h)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            named |= {f"{at}self_attn.{name}_proj.weight": (h, h) for name in "qkvo"}
            named |= {f"{at}mlp.gate_proj.weight": (i, h), f"{at}mlp.up_proj.weight": (i, h)}
            named |= {f"{at}mlp.down_proj.weight": (h, i)}
            named |= {f"{at}input_layernorm.weight": (h,), f"{at}post_attention_layernorm.weight": (h,)}
        return named | {"model.norm.weight": (h,), HEAD: (rows, h)}


def kind(config: Mapping[str, Any]) -> Literal["bluelm", "llama"]:
    """Tell the two layouts apart that can be imported.

    Raises:
        UnsupportedCheckpoint: It is neither.
    """
    match config.get("model_type"):
        case "BlueLM":
            return "bluelm"
        case "llama":
            return "llama"
        case other:
            raise UnsupportedCheckpoint(
                f"config.json says model_type {str(other)[:60]!r}; importable are 'BlueLM' (the releases of 7B, 2K) "
                "and 'llama'."
            )


def refuse_long_context(*, names: tuple[str, ...], config: Mapping[str, Any], code: str) -> None:
    """Refuse BlueLM's 32K variants; any one sign is enough, as a config alone may hide it.

    Args:
        names: The folder's path, the hub id and the name given.
        config: Of the checkpoint.
        code: Text of modeling_bluelm.py, which is searched and never run.

    Raises:
        LongContextCheckpoint: There is a sign.
    """
    length = config.get("max_position_embeddings")
    signs = {
        "its path or name says 32K": any("32k" in name.lower() for name in names),
        "rope_scaling is set in config.json": config.get("rope_scaling") is not None,
        "modeling_bluelm.py speaks of NTK": "ntk" in code.lower(),
        f"max_position_embeddings exceeds {CONTEXT}": isinstance(length, int) and length > CONTEXT,
    }
    if found := [sign for sign, there in signs.items() if there]:
        raise LongContextCheckpoint(
            f"This looks like a 32K variant of BlueLM ({'; '.join(found)}). Its positions are NTK-mixed, so a plain "
            "import would run and be wrong. Import BlueLM-7B-Chat or BlueLM-7B-Base (2K)"
            + (", and keep '32k' out of the path and the name." if signs["its path or name says 32K"] else ".")
        )


def refuse_quantised(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse packed weights, by config or by tensors.

    Raises:
        QuantisedCheckpoint: There is a sign.
    """
    signs = [key for key in ("quantization_config", "quantization_bit") if config.get(key)]
    signs += [name for name in tensors if name.endswith(PACKED_ENDINGS)][:3]
    signs += [f"{name} of type {info.dtype}" for name, info in tensors.items() if not info.dtype.is_floating_point][:3]
    if signs:
        raise QuantisedCheckpoint(
            f"The weights are quantised ({', '.join(signs)[:300]}), which can't be trained here. "
            "Import the bf16 release, BlueLM-7B-Chat."
        )


def read(config: Mapping[str, Any]) -> Layout:
    """Check that a config is of a plain 2K BlueLM and take its sizes.

    Raises:
        UnsupportedCheckpoint: A field differs from what the 2K releases say; all of them are named.
    """
    heads = config.get("num_attention_heads")
    wrong = [
        f"{field} is {str(config.get(field))[:60]}, expected {expected}"
        for field, expected, right in (
            ("architectures", "['BlueLMForCausalLM']", config.get("architectures") == ["BlueLMForCausalLM"]),
            ("use_stable_embedding", "true", config.get("use_stable_embedding") is True),
            ("tie_word_embeddings", "false", config.get("tie_word_embeddings", False) is False),
            (
                "num_key_value_heads",
                f"num_attention_heads ({heads})",
                config.get("num_key_value_heads", heads) == heads,
            ),
            ("rope_theta", "10000", config.get("rope_theta", 10000) == 10000),
            ("hidden_act", "silu", config.get("hidden_act", "silu") == "silu"),
            ("rms_norm_eps", "a small positive number", _is_eps(config.get("rms_norm_eps", 1e-6))),
            (
                "max_position_embeddings",
                "a number of tokens",
                _is_count(config.get("max_position_embeddings"), CONTEXT),
            ),
            *((field, f"1 to {most}", _is_count(config.get(field), most)) for field, most in LIMITS.items()),
        )
        if not right
    ]
    if not wrong and config["hidden_size"] % (2 * config["num_attention_heads"]):
        wrong.append(f"hidden_size {config['hidden_size']} does not split into {heads} heads of even size")
    if wrong:
        raise UnsupportedCheckpoint(
            f"config.json is not that of a 2K BlueLM: {'; '.join(wrong)}. Use the files of the official release."
        )
    return Layout(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        context=config["max_position_embeddings"],
        eps=float(config.get("rms_norm_eps", 1e-6)),
    )


def check_tensors(layout: Layout, tensors: Mapping[str, TensorInfo]) -> int:
    """Check names, shapes and types, and return the rows of the embedding, which no config decides.

    Raises:
        UnsupportedCheckpoint: A tensor is missing, extra or of another shape.
        DamagedCheckpoint: Types are mixed or unknown.
    """
    table = tensors.get(EMBEDDING)
    rows = table.shape[0] if table is not None and table.shape else 0
    expected = layout.shapes(rows=rows) | {NORM_WEIGHT: (layout.hidden,), NORM_BIAS: (layout.hidden,)}
    found = {name: info for name, info in tensors.items() if not is_rotary_buffer(name)}
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} {list(found[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if missing or extra or misshapen or rows < 1:
        raise UnsupportedCheckpoint(
            "The tensors are not those of the config: "
            + "; ".join(
                f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for what, names in (("missing", missing), ("unknown", extra), ("misshapen", misshapen))
                if names
            )
            + ". Use config and weights of one official release."
        )
    check_dtypes(found)
    return rows


def check_dtypes(tensors: Mapping[str, TensorInfo]) -> torch.dtype:
    """Return the one floating type of all tensors.

    Raises:
        DamagedCheckpoint: Several, or one that is neither bf16, fp16 nor fp32.
    """
    dtypes = {info.dtype for info in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= set(FLOATS):
        raise DamagedCheckpoint(
            f"The weights are of {', '.join(sorted(map(str, dtypes)))}; expected one of bfloat16, float16, float32."
        )
    return dtypes.pop()


def is_rotary_buffer(name: str) -> bool:
    """Say whether a tensor is the rotary table, which some releases save and every model computes."""
    return name.endswith("rotary_emb.inv_freq")


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_eps(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 0.1
