"""Model shapes that rows are measured at, with weights drawn from N(0, 0.02): never zeros, never real ones."""

from dataclasses import dataclass
from typing import Final, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

Name = Literal["7b", "nano", "tiny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Llama-layout model; `max_tokens` bounds a sample, `steps` is a block's default length."""

    name: Name
    hidden: int
    intermediate: int
    layers: int
    heads: int
    rows: int
    max_tokens: int
    steps: int

    @property
    def gemm_parameters(self) -> int:
        """Parameters that every token is multiplied with: the layers' matrices and the head, not the embedding."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate) + self.rows * self.hidden


SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape(name="7b", hidden=4096, intermediate=11008, layers=32, heads=32, rows=100_008, max_tokens=2048, steps=10),
        Shape(name="nano", hidden=256, intermediate=704, layers=3, heads=4, rows=2560, max_tokens=512, steps=6),
        Shape(name="tiny", hidden=64, intermediate=172, layers=2, heads=2, rows=1000, max_tokens=128, steps=6),
    )
}


def build(shape: Shape, *, device: str, dtype: torch.dtype, seed: int, attention_name: str) -> PreTrainedModel:
    """Make a frozen model of this shape; the same seed gives the same weights on any device."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.rows,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
        initializer_range=0.02,
        use_cache=False,
        attn_implementation=attention_name,
        dtype=dtype,
    )
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=dtype)  # noqa: SLF001  (the only way to name a dtype)
    # Drawn again by one generator: transformers' own initialisation is skipped or differs between its versions.
    generator = torch.Generator(device=device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.02, generator=generator)
        elif "norm" in name:
            parameter.data.fill_(1.0)
    frozen: PreTrainedModel = model.requires_grad_(False).eval()
    return frozen
