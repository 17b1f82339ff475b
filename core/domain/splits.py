"""Training rows apart from validation rows, so that no prompt stands on both sides.

The tutorial's data holds two rows fifty times each: split row by row, validation would measure memory.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from core.domain.datasets import Conversation, Turn
from core.errors import Invalid


@dataclass(frozen=True, slots=True)
class Split:
    """Both sides, each in the order of the file."""

    train: tuple[Conversation, ...]
    validation: tuple[Conversation, ...]


class CannotSplit(Invalid):
    """All rows share one prompt, or there is one row."""

    code = "cannot_split"


def split(conversations: Iterable[Conversation], *, ratio: float, seed: int) -> Split:
    """Put whole groups of rows with one prompt on one side, at random by `seed`.

    Validation gets at most `ratio` of the rows, but at least one group; so does training.

    Args:
        conversations: In the order of the file.
        ratio: Between 0 and 1.
        seed: The same seed and rows give the same split.

    Raises:
        CannotSplit: There are fewer than two groups.
    """
    rows = tuple(conversations)
    groups: dict[tuple[Turn, ...], list[int]] = {}
    for index, conversation in enumerate(rows):
        groups.setdefault(_prompt(conversation), []).append(index)
    if len(groups) < 2:
        raise CannotSplit(
            f"validation_ratio needs rows with at least two different prompts; the data set has {len(groups)}.",
            param="validation_ratio",
        )
    chosen = _choose(list(groups.values()), at_most=int(len(rows) * ratio), seed=seed)
    return Split(
        train=tuple(row for index, row in enumerate(rows) if index not in chosen),
        validation=tuple(row for index, row in enumerate(rows) if index in chosen),
    )


def _choose(groups: list[list[int]], *, at_most: int, seed: int) -> set[int]:
    random.Random(seed).shuffle(groups)
    chosen: set[int] = set()
    for group in groups[:-1]:
        if len(chosen) + len(group) <= at_most:
            chosen.update(group)
    smallest: list[int] = min(groups, key=len)
    return chosen or set(smallest)


def _prompt(conversation: Conversation) -> tuple[Turn, ...]:
    """What stands before the first answer: rows that share it would leak their first turn, whatever follows."""
    first = next((at for at, turn in enumerate(conversation.turns) if turn.role == "assistant"), None)
    return tuple(turn._replace(content=turn.content.strip()) for turn in conversation.turns[:first])
