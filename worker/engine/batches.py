"""The rows that decode together, and their keys and values in one padded cache.

Rows stand flush right, so that every row's next token goes into the same column. Knows nothing of what tokens mean.

Axes: B rows, L columns of the cache, N KV heads, K head_dim.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

Row = TypeVar("Row")


class Batch(Generic[Row]):
    """Rows that join, take part in passes, and leave; the cache is never longer than its longest row."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lengths: list[int] = []
        self.rows: list[Row] = []
        self.cache = DynamicCache()

    def positions(self) -> Tensor:
        """Where each row's next token stands, [B, 1]."""
        return torch.tensor(self._lengths, device=self._device)[:, None]

    def mask(self) -> Tensor:
        """True at the tokens of each row, its next one included, [B, L]."""
        lengths_B1 = self.positions() + 1
        columns = max(self._lengths) + 1
        return torch.arange(columns, device=self._device) >= columns - lengths_B1

    def join(self, row: Row, cache: DynamicCache) -> None:
        """Take a row in whose prompt has been through the model alone."""
        length = cache.get_seq_length()
        if not self.rows:
            self.cache = cache
        else:
            columns = max(length, *self._lengths)
            for ours, theirs in zip(self.cache.layers, cache.layers, strict=True):
                ours.keys = torch.cat((_widened(ours.keys, columns), _widened(theirs.keys, columns)))
                ours.values = torch.cat((_widened(ours.values, columns), _widened(theirs.values, columns)))
        self.rows.append(row)
        self._lengths.append(length)

    def advance(self) -> None:
        """Note that a pass has appended one token to every row."""
        self._lengths = [length + 1 for length in self._lengths]

    def keep(self, places: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only they needed."""
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in places]
        self._lengths = [self._lengths[place] for place in places]
        if not self.rows:
            self.cache = DynamicCache()
            return
        kept = torch.tensor(places, device=self._device)
        columns = max(self._lengths)
        for layer in self.cache.layers:
            layer.keys = layer.keys[:, :, -columns:].index_select(0, kept)
            layer.values = layer.values[:, :, -columns:].index_select(0, kept)


def _widened(states_BNLK: Tensor, columns: int) -> Tensor:
    """Put zeros in front, which the mask hides."""
    return functional.pad(states_BNLK, (0, 0, columns - states_BNLK.shape[2], 0))
