"""Examples laid end to end without padding. Knows lengths and order; knows no tensors and no batch sampler.

Axes: T tokens of a row, S segments (one per example) of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Invalid
from core.text.examples import IGNORED, Example

MICRO_BATCH_TOKENS: Final = 4096
"""A step's rows are split into micro-batches of at most this many tokens, so that memory does not grow with the batch.

A tutorial step (16 samples) holds 863 to 1,877 tokens and stays whole; 4,096 tokens of the 7B base took 44 GiB of an
H100 without checkpointing.
"""


class ExampleTooLong(Invalid):
    """A single example exceeds the row that it should go into."""

    code = "example_too_long"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One row of whole examples.

    `position_ids_T` restart at 0 in each segment; `labels_T` is IGNORED at each segment's first token, since its
    predecessor is of another example; `starts_S` are the segments' offsets, ascending from 0.
    """

    input_ids_T: list[int]
    labels_T: list[int]
    position_ids_T: list[int]
    starts_S: list[int]

    def __len__(self) -> int:
        return len(self.input_ids_T)


def flatten(examples: Sequence[Example]) -> Packed:
    """Lay examples end to end in the order given.

    Source: https://arxiv.org/abs/2407.09105 (position ids that restart stand for the attention mask).
    """
    row = Packed(input_ids_T=[], labels_T=[], position_ids_T=[], starts_S=[])
    for example in examples:
        row.starts_S.append(len(row))
        row.input_ids_T.extend(example.input_ids)
        row.labels_T.extend([IGNORED, *example.labels[1:]])
        row.position_ids_T.extend(range(len(example)))
    return row


def first_fit(lengths: Sequence[int], *, pack_length: int) -> list[list[int]]:
    """Assign each example to the first row with room for it; rows hold indices into `lengths`, ascending.

    Takes O(n log n): a tree over the rows' free tokens finds the first that fits.

    Raises:
        ExampleTooLong: A length exceeds `pack_length`.
    """
    rows: list[list[int]] = []
    free = _FirstFree(len(lengths), pack_length)
    for index, length in enumerate(lengths):
        if length > pack_length:
            raise ExampleTooLong(
                f"Example {index} has {length} tokens; a row holds {pack_length}. Raise pack_length or cut the row.",
                param="pack_length",
            )
        place = free.take(length)
        if place == len(rows):
            rows.append([])
        rows[place].append(index)
    return rows


def micro_batches(lengths: Sequence[int], *, max_tokens: int = MICRO_BATCH_TOKENS) -> list[list[int]]:
    """Split the rows of one step, in their order, into as few passes as `max_tokens` allows; gives indices.

    A row that is longer than that is a pass of its own.
    """
    groups: list[list[int]] = []
    filled = 0
    for index, length in enumerate(lengths):
        if not groups or filled + length > max_tokens:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += length
    return groups


class _FirstFree:
    """Free tokens of many rows, in a binary tree whose nodes hold the largest value below them."""

    def __init__(self, rows: int, pack_length: int) -> None:
        self._leaves = 1 << max(rows - 1, 0).bit_length()
        self._largest = [pack_length] * (2 * self._leaves)

    def take(self, tokens: int) -> int:
        """Take tokens from the first row that has them and return its number; there always is one."""
        node = 1
        while node < self._leaves:
            node *= 2
            if self._largest[node] < tokens:
                node += 1
        row = node - self._leaves
        self._largest[node] -= tokens
        while node > 1:
            node //= 2
            self._largest[node] = max(self._largest[2 * node], self._largest[2 * node + 1])
        return row
