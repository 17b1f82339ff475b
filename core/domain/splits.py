"""Training rows apart from validation rows, so that no prompt stands on both sides.

The tutorial's data holds two rows fifty times each: split row by row, validation would measure memory.
"""

import random
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from core.domain.datasets import Conversation, Turn
from core.errors import Invalid

ONE_GROUP: Final = (
    "validation_ratio needs rows with at least two different first questions, one for each side; the data set has one. "
    "Leave validation_ratio out, or send a validation_dataset."
)


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

    Validation gets at most `ratio` of the rows, and as many whole groups as fit; at least the smallest one. Training
    gets at least one group.

    Args:
        conversations: In the order of the file.
        ratio: Between 0 and 1.
        seed: The same seed and rows give the same split.

    Raises:
        CannotSplit: There are fewer than two groups.
    """
    rows = tuple(conversations)
    groups: dict[str, list[int]] = {}
    for index, conversation in enumerate(rows):
        groups.setdefault(group_of(conversation.turns), []).append(index)
    if len(groups) < 2:
        raise CannotSplit(ONE_GROUP, param="validation_ratio")
    chosen = _choose(list(groups.values()), at_most=int(len(rows) * Decimal(str(ratio))), seed=seed)
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


def group_of(turns: tuple[Turn, ...]) -> str:
    """Give what rows of one group share: the first question, whatever its width, case and spacing.

    Not the system text nor what follows the first answer: a row that asks the same under another system text, or
    goes on differently, would show the model the first answer all the same.
    """
    asked = next((turn.content for turn in turns if turn.role == "user"), "")
    return " ".join(unicodedata.normalize("NFKC", asked).casefold().split())
