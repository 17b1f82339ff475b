"""A literal BlueLM in plain torch, written from the facts of the architecture; shares no code with the product.

Embedding, then a true LayerNorm (weight and bias, eps = rms_norm_eps), then Llama: RMSNorm before attention and MLP,
half-rotated RoPE of base 10000, SwiGLU, no biases, an untied head. No cache, no batching tricks.
"""

from collections.abc import Mapping
from typing import Any

import torch


def logits(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], input_ids: list[int]) -> torch.Tensor:
    """Return logits of shape [tokens, rows] in the weights' own type."""
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    hidden = weights["model.embed_tokens.weight"][torch.tensor(input_ids)]
    hidden = torch.nn.functional.layer_norm(
        hidden,
        (config["hidden_size"],),
        weights["model.embed_layer_norm.weight"],
        weights["model.embed_layer_norm.bias"],
        eps,
    )
    cos, sin = rotary(len(input_ids), config["hidden_size"] // heads)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        w = {name.removeprefix(at): tensor for name, tensor in weights.items() if name.startswith(at)}
        normed = rms_norm(hidden, w["input_layernorm.weight"], eps)
        hidden = hidden + attention(normed, w, heads, cos, sin)
        normed = rms_norm(hidden, w["post_attention_layernorm.weight"], eps)
        gate = normed @ w["mlp.gate_proj.weight"].T
        up = normed @ w["mlp.up_proj.weight"].T
        hidden = hidden + (torch.nn.functional.silu(gate) * up) @ w["mlp.down_proj.weight"].T
    return rms_norm(hidden, weights["model.norm.weight"], eps) @ weights["lm_head.weight"].T


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide by the root of the mean square, in fp32."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotary(length: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, the halves alike."""
    frequency = 1.0 / (10000.0 ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    both = torch.cat([angle, angle], dim=-1)
    return both.cos(), both.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first half of each head against the second."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def attention(
    x: torch.Tensor, w: Mapping[str, torch.Tensor], heads: int, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Attend causally, every head apart."""
    length, width = x.shape
    split = {n: (x @ w[f"self_attn.{n}_proj.weight"].T).view(length, heads, -1).transpose(0, 1) for n in "qkv"}
    query, key = rotate(split["q"], cos, sin), rotate(split["k"], cos, sin)
    scores = query @ key.transpose(1, 2) / (width // heads) ** 0.5
    future = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
    share = torch.softmax(scores.float().masked_fill(future, float("-inf")), dim=-1).to(x.dtype)
    return (share @ split["v"]).transpose(0, 1).reshape(length, width) @ w["self_attn.o_proj.weight"].T
