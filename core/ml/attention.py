"""Causal attention over flattened samples: one row holds many, and none sees another.

Registered with transformers under `NAME`. On CUDA it is torch's varlen kernel; on the CPU the samples of the row are
laid side by side, attended causally, and gathered back. Knows no model and no data.

Axes: T tokens of the row, S samples, L tokens of the longest sample, H heads, K head_dim.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME: Final = "bluelora_varlen"


def register() -> None:
    """Make `attn_implementation=NAME` known to transformers; calling it again changes nothing.

    The name stays out of AttentionMaskInterface on purpose: mask creation then exits early.
    """
    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend within each sample of one flattened row.

    Shapes: `query` [1, H, T, K], `key` and `value` [1, H_kv, T, K]; `cu_seq_lens_q` int32 [S + 1], from 0 to T.
    Returns [1, T, H, K], and None for the weights.

    Raises:
        ValueError: The call is not one flattened row with its borders. Without them samples would leak into each
            other, and transformers hands this function no padding mask to tell it otherwise.
    """
    if cu_seq_lens_q is None or max_length_q is None or query.shape[0] != 1 or attention_mask is not None:
        raise ValueError(f"{NAME} reads one flattened row with cu_seq_lens_q and max_length_q, and no mask")
    if dropout and module.training:
        raise ValueError(f"{NAME} has no attention dropout; BlueLM's config has none either")
    rows = [row_1HTK[0].transpose(0, 1) for row_1HTK in (query, key, value)]
    attended = _attend_varlen if query.is_cuda else _attend_side_by_side
    return attended(*rows, borders=cu_seq_lens_q, longest=max_length_q, scaling=scaling).unsqueeze(0), None


def _attend_varlen(
    q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, *, borders: Tensor, longest: int, scaling: float | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  (its import touches CUDA-only operators)

    if k_THK.shape[1] != q_THK.shape[1] and not _varlen_takes("enable_gqa"):
        repeats = q_THK.shape[1] // k_THK.shape[1]
        k_THK, v_THK = k_THK.repeat_interleave(repeats, dim=1), v_THK.repeat_interleave(repeats, dim=1)
    grouped = {"enable_gqa": True} if k_THK.shape[1] != q_THK.shape[1] else {}
    kernel = cast("Callable[..., Tensor]", varlen_attn)
    return kernel(q_THK, k_THK, v_THK, borders, borders, longest, longest, scale=scaling, **_causal(), **grouped)


@functools.cache
def _varlen_takes(parameter: str) -> bool:
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

    return parameter in inspect.signature(varlen_attn).parameters


def _causal() -> Mapping[str, object]:
    """Causal by window since torch 2.11; its first release had a flag instead."""
    return {"window_size": (-1, 0)} if _varlen_takes("window_size") else {"is_causal": True}


def _attend_side_by_side(
    q_THK: Tensor, k_THK: Tensor, v_THK: Tensor, *, borders: Tensor, longest: int, scaling: float | None
) -> Tensor:
    """Pad to [S, H, L, K]: what a row adds behind its end can't be seen by what is before it, so no mask is needed."""
    count = borders.shape[0] - 1
    if count == 1:
        return _sdpa(q_THK.unsqueeze(0), k_THK.unsqueeze(0), v_THK.unsqueeze(0), scaling=scaling)[0]
    slots_T = _slots(borders, longest=longest, tokens=q_THK.shape[0])
    padded = [
        row_THK.new_zeros(count * longest, *row_THK.shape[1:])
        .index_copy(0, slots_T, row_THK)
        .view(count, longest, *row_THK.shape[1:])
        for row_THK in (q_THK, k_THK, v_THK)
    ]
    return _sdpa(*padded, scaling=scaling).flatten(0, 1).index_select(0, slots_T)


def _slots(borders: Tensor, *, longest: int, tokens: int) -> Tensor:
    lengths_S = borders.diff()
    shifts_S = torch.arange(len(lengths_S), device=borders.device) * longest - borders[:-1]
    return torch.arange(tokens, device=borders.device) + shifts_S.repeat_interleave(lengths_S)


def _sdpa(q_SLHK: Tensor, k_SLHK: Tensor, v_SLHK: Tensor, *, scaling: float | None) -> Tensor:
    return scaled_dot_product_attention(
        q_SLHK.transpose(1, 2),
        k_SLHK.transpose(1, 2),
        v_SLHK.transpose(1, 2),
        is_causal=True,
        scale=scaling,
        enable_gqa=q_SLHK.shape[2] != k_SLHK.shape[2],
    ).transpose(1, 2)
