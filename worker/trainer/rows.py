"""Rows as tensors: samples laid end to end, with their borders and the few positions that are learnt from.

Padding-free: a micro-batch is one row, and the loss reads logits only where a label is. Knows no text and no files.

Axes: T tokens of the row, S samples in it, N labelled tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from core.text import packing
from core.text.examples import IGNORED


@dataclass(frozen=True, slots=True)
class Row:
    """Samples end to end: all that one forward pass needs.

    Shapes: `input_ids_T`, `position_ids_T` int64, positions restart at each sample; `predictors_N` int64, the
    positions whose next token is a label; `targets_N` int64, those labels. `lengths` counts the tokens of each sample.
    """

    input_ids_T: Tensor
    position_ids_T: Tensor
    predictors_N: Tensor
    targets_N: Tensor
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the row, none of them padding."""
        return len(self.input_ids_T)

    @property
    def labels(self) -> int:
        """Tokens that are learnt."""
        return len(self.targets_N)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one optimizer step learns from: micro-batches, and the label count that their summed loss is divided by."""

    rows: tuple[Row, ...]
    labels: int
    tokens: int


def row(input_ids: Sequence[int], labels: Sequence[int], *, starts: Sequence[int] = (0,)) -> Row:
    """Make one row of samples that lie end to end.

    A label on the first token of a sample has nothing before it to be predicted from: it is dropped, as the shift
    within a padded row drops it.

    Args:
        input_ids: Token ids.
        labels: For each token itself or IGNORED, as transformers spells labels (not shifted).
        starts: Where each sample begins; the first is 0.
    """
    borders = [*starts, len(input_ids)]
    lengths = tuple(after - before for before, after in pairwise(borders))
    first = set(starts)
    learnt = [at for at, label in enumerate(labels) if label != IGNORED and at not in first]
    return Row(
        input_ids_T=torch.tensor(input_ids, dtype=torch.int64),
        position_ids_T=torch.cat([torch.arange(length) for length in lengths]),
        predictors_N=torch.tensor([at - 1 for at in learnt], dtype=torch.int64),
        targets_N=torch.tensor([labels[at] for at in learnt], dtype=torch.int64),
        lengths=lengths,
    )


def joined(rows: Sequence[Row]) -> Row:
    """Lay rows end to end as one."""
    if len(rows) == 1:
        return rows[0]
    offset, predictors = 0, []
    for one in rows:
        predictors.append(one.predictors_N + offset)
        offset += one.tokens
    return Row(
        input_ids_T=torch.cat([one.input_ids_T for one in rows]),
        position_ids_T=torch.cat([one.position_ids_T for one in rows]),
        predictors_N=torch.cat(predictors),
        targets_N=torch.cat([one.targets_N for one in rows]),
        lengths=tuple(length for one in rows for length in one.lengths),
    )


def batch(rows: Sequence[Row], *, max_tokens: int = packing.MICRO_BATCH_TOKENS) -> StepBatch:
    """Flatten the samples of one step, in their order, into as few micro-batches as `max_tokens` allows."""
    groups = packing.micro_batches([one.tokens for one in rows], max_tokens=max_tokens)
    return StepBatch(
        rows=tuple(joined([rows[at] for at in group]) for group in groups),
        labels=sum(one.labels for one in rows),
        tokens=sum(one.tokens for one in rows),
    )


def model_inputs(one: Row, device: torch.device) -> dict[str, Tensor | int | None]:
    """Name the tensors of a row as transformers' Llama and `core.ml.attention` read them, with a batch axis of one."""
    borders = torch.tensor([0, *one.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(one.lengths)
    return {
        "input_ids": one.input_ids_T.unsqueeze(0).to(device),
        "position_ids": one.position_ids_T.unsqueeze(0).to(device),
        "logits_to_keep": one.predictors_N.to(device),
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }
