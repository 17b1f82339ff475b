"""BlueLM-7B (2K) written down once more, literally, in plain torch: the specification that the product is held against.

Imports nothing of the product and nothing of transformers. It is slow on purpose: every key is rotated again at every
step, and what the cache holds is what a reader expects in it. Each fact names where it is from:

[M] `modeling_bluelm.py` of the release (vivo-ai-lab/BlueLM; its `use_stable_embedding` branch is the only one that the
    releases use), as read in its first published copy.
[C] `config.json` of BlueLM-7B-Chat: hidden 4096, 32 heads, 32 layers, `rms_norm_eps` 1e-6, 2048 positions.
[L] LLaMA (arXiv 2302.13971), [R] RoPE (arXiv 2104.09864), [N] RMSNorm (arXiv 1910.07467), [G] SwiGLU (arXiv 2002.05202).

Axes: B rows, T new tokens, L tokens seen so far (T included), H hidden, N heads, D width of a head, V vocabulary rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class BlueLM:
    """Original tensors under their original names, and the sizes that no tensor tells.

    `table_type` is the type that the embedding's LayerNorm is rounded to; None leaves it as computed. A checkpoint that
    runs in bf16 rounds there once, and so does an import of it: with that one rounding the rest can be compared in fp32.
    """

    weights: Mapping[str, Tensor]
    heads: int  # [C] num_attention_heads; keys and values have as many [M]
    eps: float  # [C] rms_norm_eps
    table_type: torch.dtype | None = None

    @property
    def layers(self) -> int:
        return len({name.split(".")[2] for name in self.weights if name.startswith("model.layers.")})


@dataclass
class Cache:
    """Keys and values of each layer, [B, N, L, D], before rotation, and which columns are tokens: [B, L]."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mask_BL: Tensor | None = None


def logits(model: BlueLM, ids_BT: Tensor, mask_BT: Tensor | None = None, cache: Cache | None = None) -> Tensor:
    """Return logits [B, T, V] for new tokens; `mask_BT` is 0 on padding, on either side. Grows `cache`, if given."""
    cache = Cache() if cache is None else cache
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    cache.mask_BL = mask_BT if cache.mask_BL is None else torch.cat([cache.mask_BL, mask_BT], dim=1)
    hidden_BTH = embed(model, ids_BT)
    for layer in range(model.layers):
        hidden_BTH = block(model, layer, hidden_BTH, cache)
    # [L] One more norm before the head; the head has weights of its own [C: tie_word_embeddings false].
    normal_BTH = rms_norm(hidden_BTH, model.weights["model.norm.weight"], model.eps)
    return normal_BTH @ model.weights["lm_head.weight"].T


def embed(model: BlueLM, ids_BT: Tensor) -> Tensor:
    """Look tokens up and normalise each one.

    [M] `use_stable_embedding`: a true LayerNorm (mean, variance, weight and bias) right after the token embedding, of
    token embeddings alone, with eps = rms_norm_eps and not torch's default of 1e-5.
    """
    weights = model.weights
    raw_BTH = weights["model.embed_tokens.weight"][ids_BT]
    mean = raw_BTH.mean(dim=-1, keepdim=True)
    variance = (raw_BTH - mean).square().mean(dim=-1, keepdim=True)
    normal_BTH = (raw_BTH - mean) / torch.sqrt(variance + model.eps)
    normal_BTH = normal_BTH * weights["model.embed_layer_norm.weight"] + weights["model.embed_layer_norm.bias"]
    return normal_BTH if model.table_type is None else normal_BTH.to(model.table_type).to(raw_BTH.dtype)


def block(model: BlueLM, layer: int, hidden_BTH: Tensor, cache: Cache) -> Tensor:
    """Attend, then think: each on a norm of its input, each added to it [L: pre-norm]."""

    def weight(name: str) -> Tensor:
        return model.weights[f"model.layers.{layer}.{name}.weight"]

    # [M] No projection has a bias.
    normal = rms_norm(hidden_BTH, weight("input_layernorm"), model.eps)
    query, key, value = (normal @ weight(f"self_attn.{name}_proj").T for name in "qkv")
    attended_BTH = attend(model.heads, layer, query, key, value, cache)
    hidden_BTH = hidden_BTH + attended_BTH @ weight("self_attn.o_proj").T
    # [G] SwiGLU with silu [C: hidden_act].
    normal = rms_norm(hidden_BTH, weight("post_attention_layernorm"), model.eps)
    gate = functional.silu(normal @ weight("mlp.gate_proj").T)
    return hidden_BTH + (gate * (normal @ weight("mlp.up_proj").T)) @ weight("mlp.down_proj").T


def attend(heads: int, layer: int, query_BTH: Tensor, key_BTH: Tensor, value_BTH: Tensor, cache: Cache) -> Tensor:
    """Let every token look at itself and at the tokens before it in its row; padding is looked at by nobody."""
    rows, new, hidden = query_BTH.shape

    def by_head(flat_BTH: Tensor) -> Tensor:
        return flat_BTH.view(rows, new, heads, hidden // heads).transpose(1, 2)

    query, key, value = by_head(query_BTH), by_head(key_BTH), by_head(value_BTH)
    if layer == len(cache.keys):
        cache.keys.append(key)
        cache.values.append(value)
    else:
        cache.keys[layer] = torch.cat([cache.keys[layer], key], dim=2)
        cache.values[layer] = torch.cat([cache.values[layer], value], dim=2)
    assert cache.mask_BL is not None
    places_BL = places(cache.mask_BL)
    key_BNLD = rotate(cache.keys[layer], places_BL)
    query_BNTD = rotate(query, places_BL[:, -new:])
    scores = query_BNTD @ key_BNLD.transpose(2, 3) / (hidden // heads) ** 0.5  # [L]
    seen = cache.mask_BL.shape[1]
    column_T1 = torch.arange(seen - new, seen)[:, None]
    visible = (torch.arange(seen) <= column_T1) & cache.mask_BL.bool()[:, None, None, :]
    # A padded position has nothing before it; it looks at itself, so that its softmax is one, and nobody looks at it.
    visible = visible | (torch.arange(seen) == column_T1)
    share_BNTL = torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)
    return (share_BNTL @ cache.values[layer]).transpose(1, 2).reshape(rows, new, hidden)


def places(mask_BL: Tensor) -> Tensor:
    """Number the tokens of each row from 0, whatever padding stands around them [M: prepare_inputs_for_generation]."""
    return (mask_BL.long().cumsum(dim=1) - 1).clamp(min=0)


def rotate(x_BNTD: Tensor, places_BT: Tensor) -> Tensor:
    """Turn pairs of coordinates by an angle that grows with the place [R], base 10000.

    [M] As in LLaMA's published code, pairs are (i, i + D/2), the first half against the second, not neighbours.
    [M] The 2K code has the base written in, whatever `rope_theta` says, and no scaling.
    """
    width = x_BNTD.shape[-1]
    frequency = 1.0 / (10000.0 ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
    angle = places_BT[:, None, :, None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    first, second = x_BNTD[..., : width // 2], x_BNTD[..., width // 2 :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide by the root of the mean square; no mean is taken off and there is no bias [N]."""
    return weight * (x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps))


def greedy(
    model: BlueLM, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, ends: frozenset[int], use_cache: bool
) -> list[list[int]]:
    """Answer each prompt with the likeliest token at every step, up to and with the first of `ends`.

    All rows go through the model together, padded on the left with id 3 [C: pad_token_id].
    """
    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[3] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    answers: list[list[int]] = [[] for _ in prompts]
    cache = Cache() if use_cache else None
    new_ids, new_mask = ids_BT, mask_BT
    for _ in range(max_new_tokens):
        next_B = logits(model, new_ids, new_mask, cache)[:, -1].argmax(dim=-1)
        for answer, token in zip(answers, next_B.tolist(), strict=True):
            if not (answer and answer[-1] in ends):
                answer.append(token)
        if all(answer[-1] in ends for answer in answers):
            break
        ids_BT = torch.cat([ids_BT, next_B[:, None]], dim=1)
        mask_BT = torch.cat([mask_BT, torch.ones_like(next_B[:, None])], dim=1)
        new_ids, new_mask = (next_B[:, None], mask_BT[:, -1:]) if use_cache else (ids_BT, mask_BT)
    return answers
