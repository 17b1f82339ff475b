"""BlueLM in plain torch: Llama plus a LayerNorm after the token embedding. Only for pretraining bluelm-nano.

Module names are those of the official checkpoint. Axes: B batch, T tokens, D hidden, H heads, K head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from tools.nano_tokenizer import PAD, PIECES


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; `rows` counts the pieces, four added tokens and four spare rows, as BlueLM-7B-Chat has."""

    rows: int = PIECES + 8
    hidden: int = 256
    intermediate: int = 704
    layers: int = 3
    head_dim: int = 64
    eps: float = 1e-6
    theta: float = 10000.0

    @property
    def heads(self) -> int:
        """Attention heads; BlueLM has as many key-value heads."""
        return self.hidden // self.head_dim


class Attention(nn.Module):
    """Causal multi-head attention with half-rotated RoPE, no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    @override
    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        """Mix the tokens' values; same shape out as in."""
        batch, length, hidden = x_BTD.shape
        q_BHTK, k_BHTK, v_BHTK = (
            proj(x_BTD).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed_BHTK = functional.scaled_dot_product_attention(
            _rotate(q_BHTK, cos_TK, sin_TK), _rotate(k_BHTK, cos_TK, sin_TK), v_BHTK, is_causal=True
        )
        mixed_BTD: Tensor = self.o_proj(mixed_BHTK.transpose(1, 2).reshape(batch, length, hidden))
        return mixed_BTD


def _rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos_TK + torch.cat((-second, first), dim=-1) * sin_TK


class Mlp(nn.Module):
    """SwiGLU, no biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    @override
    def forward(self, x_BTD: Tensor) -> Tensor:
        """Same shape out as in."""
        out_BTD: Tensor = self.down_proj(functional.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD


class Layer(nn.Module):
    """Attention and MLP, each behind an RMSNorm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.eps)

    @override
    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        """Same shape out as in."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TK, sin_TK)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD


class Trunk(nn.Module):
    """Everything below the head; the LayerNorm after the table is what makes it a BlueLM."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.rows, shape.hidden, padding_idx=PAD)
        self.embed_layer_norm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.eps)

    @override
    def forward(self, ids_BT: Tensor) -> Tensor:
        """Final hidden states (BTD, after the norm) of `ids_BT`."""
        half = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float32) / self.shape.head_dim
        angle = torch.outer(torch.arange(ids_BT.shape[1], dtype=torch.float32), self.shape.theta**-half)
        angle_TK = torch.cat((angle, angle), dim=-1)
        x_BTD = self.embed_layer_norm(self.embed_tokens(ids_BT))
        for layer in self.layers:
            x_BTD = layer(x_BTD, angle_TK.cos(), angle_TK.sin())
        out_BTD: Tensor = self.norm(x_BTD)
        return out_BTD


class BlueLM(nn.Module):
    """The whole model; `loss` looks at labelled positions only, which saves most of the head's work."""

    def __init__(self, shape: Shape, *, seed: int) -> None:
        super().__init__()
        self.model = Trunk(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.rows, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, 0.02, generator=generator)
            self.model.embed_tokens.weight[PAD].zero_()

    def loss(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the labelled tokens (float32 scalar)."""
        hidden_ND = self.model(ids_BT)[:, :-1][labels_BT[:, 1:] >= 0]
        targets_N = labels_BT[:, 1:][labels_BT[:, 1:] >= 0]
        return functional.cross_entropy(self.lm_head(hidden_ND), targets_N)
