"""What a training keeps in memory, counted tensor by tensor: the measure where no device counts for us."""

from typing import Any, Self

import torch
from torch import Tensor


class Kept:
    """A context in which autograd's saved tensors are counted, each storage once.

    Args:
        model: Its own parameters are not counted.

    `peak_bytes` is the most that any micro-batch kept between forward and backward.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._users: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self.peak_bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor)

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__()

    def _pack(self, tensor: Tensor) -> Any:  # noqa: ANN401  (what autograd holds in its place)
        return _Saved(self, tensor)

    def take(self, tensor: Tensor) -> None:
        """Count a tensor that is saved."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in self._own:
            return
        self._users[place] = self._users.get(place, 0) + 1
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self._bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._bytes)

    def give(self, tensor: Tensor) -> None:
        """Count one that is let go."""
        place = tensor.untyped_storage().data_ptr()
        if place not in self._users:
            return
        self._users[place] -= 1
        if not self._users[place]:
            del self._users[place]
            self._bytes -= self._sizes.pop(place)


class _Saved:
    def __init__(self, kept: Kept, tensor: Tensor) -> None:
        self._kept, self.tensor = kept, tensor
        kept.take(tensor)

    def __del__(self) -> None:
        self._kept.give(self.tensor)
