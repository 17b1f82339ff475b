"""BlueLM's embedding LayerNorm folded into the table, and how far a folded table is from the layer itself.

The LayerNorm sees one token at a time, so its result for each row can be stored instead of the row. Axes: R rows, H
hidden. Knows tensors; knows no files.
"""

import torch
from torch.nn import functional


def fold(table_RH: torch.Tensor, weight_H: torch.Tensor, bias_H: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Normalise each row in fp32 and round once to the table's type.

    Mean and variance are summed in fp64 and then rounded to fp32: sums depend on the processor's vector width, and
    the same source must give the same bytes, hence the same fingerprint, on every machine.

    Args:
        table_RH: Rows of the token embedding.
        weight_H: Of the LayerNorm.
        bias_H: Of the LayerNorm.
        eps: The model's `rms_norm_eps`; another eps changes almost every bf16 value.
    """
    wide_RH = table_RH.double()
    mean_R1 = wide_RH.mean(dim=-1, keepdim=True)
    variance_R1 = (wide_RH - mean_R1).square().mean(dim=-1, keepdim=True)
    scale_R1 = (variance_R1 + eps).rsqrt().float()
    normal_RH = (table_RH.float() - mean_R1.float()) * scale_R1
    return (normal_RH * weight_H.float() + bias_H.float()).to(table_RH.dtype)


def difference_ulp(
    folded_RH: torch.Tensor, table_RH: torch.Tensor, weight_H: torch.Tensor, bias_H: torch.Tensor, *, eps: float
) -> float:
    """Measure the largest difference between folded rows and torch's own LayerNorm, in units in the last place.

    A unit is that of the table's type at the value's size. Where the terms (row, mean, bias) cancel, fp32 itself has no
    digits below about 2^-20 of them, so the size is not taken below what makes that a unit: bare steps of bf16 near
    zero are finer than either side computes, and no two of them would agree to one (docs/decisions, fold-statistics).
    """
    exact_RH = functional.layer_norm(table_RH.float(), (table_RH.shape[-1],), weight_H.float(), bias_H.float(), eps)
    rounded_RH = exact_RH.to(table_RH.dtype)
    differing_R = (rounded_RH != folded_RH).any(dim=-1)
    if not bool(differing_R.any()):
        return 0.0
    gap_RH = (rounded_RH[differing_R].double() - folded_RH[differing_R].double()).abs()
    size_RH = torch.maximum(rounded_RH[differing_R].double().abs(), folded_RH[differing_R].double().abs())
    precision = torch.finfo(table_RH.dtype).eps
    noise = 8 * torch.finfo(torch.float32).eps / precision
    size_RH = torch.maximum(size_RH, noise * _terms(table_RH[differing_R], weight_H, bias_H, eps=eps))
    unit_RH = torch.exp2(size_RH.clamp_min(torch.finfo(table_RH.dtype).tiny).log2().floor()) * precision
    return float((gap_RH / unit_RH).max())


def _terms(table_RH: torch.Tensor, weight_H: torch.Tensor, bias_H: torch.Tensor, *, eps: float) -> torch.Tensor:
    """Add up what the LayerNorm adds and subtracts, without the signs."""
    wide_RH = table_RH.double()
    deviation_R1, mean_R1 = torch.std_mean(wide_RH, dim=-1, correction=0, keepdim=True)
    scale_R1 = (deviation_R1.square() + eps).rsqrt()
    return (wide_RH.abs() + mean_R1.abs()) * scale_R1 * weight_H.double().abs() + bias_H.double().abs()
