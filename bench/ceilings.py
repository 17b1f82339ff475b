"""What the device can do at best, measured in the same call as the row: matrix products, copies, transfers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """bf16 matrix products in FLOP/s at the row's token count, device copies and pinned transfers in bytes/s."""

    gemm_flops: float
    copy_bytes: float
    h2d_bytes: float


def measure(*, tokens: int, hidden: int, intermediate: int) -> Ceilings:
    """Measure a CUDA device; matrix products at M = `tokens`, the row's own, not at the largest that flatters."""
    return Ceilings(
        gemm_flops=_gemm(tokens, hidden, intermediate),
        copy_bytes=_copy(1 << 30),
        h2d_bytes=_h2d(1 << 28),
    )


def _gemm(m: int, k: int, n: int) -> float:
    left = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(k, n, device="cuda", dtype=torch.bfloat16)
    return 2 * m * k * n / _seconds(lambda: torch.mm(left, right))


def _copy(size: int) -> float:
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source))


def _h2d(size: int) -> float:
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    return size / _seconds(lambda: target.copy_(source, non_blocking=True))


def _seconds(work: Callable[[], object], *, repeats: int = 20) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats
