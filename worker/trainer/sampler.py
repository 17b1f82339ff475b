"""The order of core/domain/orders.py as a sampler that transformers' data loader takes."""

from collections.abc import Iterator

from torch.utils.data import Sampler
from typing_extensions import override

from core.domain import orders


class EpochOrder(Sampler[int]):
    """The indices of one epoch; Trainer and accelerate say which by `set_epoch`, a resumed training's included."""

    def __init__(self, items: int, *, seed: int) -> None:
        self._items, self._seed, self._epoch = items, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch that is drawn next, counted from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._items

    @override
    def __iter__(self) -> Iterator[int]:
        yield from orders.epoch(self._items, seed=self._seed, number=self._epoch)
