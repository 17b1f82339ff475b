"""The linear layers of a base, by the sizes in its config.json: what an adapter has to fit. Knows no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1, lt=2**24)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """The weight of one of the base's linear layers is [out, in]."""

    out_features: int
    in_features: int


class LlamaSizes(BaseModel):
    """The sizes in a Llama checkpoint's config.json, under transformers' names."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None


def linears(sizes: LlamaSizes) -> Mapping[str, Linear]:
    """Name the seven linear layers of every decoder layer by module path, such as `model.layers.0.mlp.up_proj`."""
    hidden, inner, heads = sizes.hidden_size, sizes.intermediate_size, sizes.num_attention_heads
    head = sizes.head_dim or hidden // heads
    query, key = heads * head, (sizes.num_key_value_heads or heads) * head
    layer = {
        "self_attn.q_proj": Linear(out_features=query, in_features=hidden),
        "self_attn.k_proj": Linear(out_features=key, in_features=hidden),
        "self_attn.v_proj": Linear(out_features=key, in_features=hidden),
        "self_attn.o_proj": Linear(out_features=hidden, in_features=query),
        "mlp.gate_proj": Linear(out_features=inner, in_features=hidden),
        "mlp.up_proj": Linear(out_features=inner, in_features=hidden),
        "mlp.down_proj": Linear(out_features=hidden, in_features=inner),
    }
    return {f"model.layers.{n}.{path}": one for n in range(sizes.num_hidden_layers) for path, one in layer.items()}
