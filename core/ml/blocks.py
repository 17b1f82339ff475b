"""Tensors in pieces of whole rows, so that no step of an import holds a large one several times over."""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import torch

VALUES_AT_ONCE: Final = 2**22


def ranges(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut rows 0 to `shape[0]` into ranges of some four million values each, at least one row."""
    rows = max(1, VALUES_AT_ONCE // max(1, math.prod(shape[1:])))
    yield from ((start, min(start + rows, shape[0])) for start in range(0, shape[0], rows))


def split(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor's rows in such ranges, as views; a tensor without axes counts as one row."""
    rows = tensor if tensor.dim() else tensor.reshape(1)
    yield from (rows[start:end] for start, end in ranges(rows.shape))
