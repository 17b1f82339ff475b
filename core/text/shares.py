"""A file that is too large to be rendered for a plan: how its leading rows stand for all of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from core.domain.datasets import Conversation
from core.text.examples import Example

MAX_ROWS: Final = 60_000
MAX_CHARACTERS: Final = 4_000_000
"""What is read for a plan: rendering takes about 0.1 s for 1,000 tutorial-like rows."""
BLOCKS: Final = 10


@dataclass(frozen=True, slots=True)
class Share:
    """The factors by which counts of rows and of tokens grow from what was read to the file; 1 where that is all.

    `low` and `high` bound the factor for tokens.
    """

    rows: float = 1.0
    tokens: float = 1.0
    low: float = 1.0
    high: float = 1.0


WHOLE: Final = Share()


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Rows of a file and their characters, prompts and answers together."""

    rows: int
    characters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read of a file: all of it, unless `is_cut`."""

    conversations: Sequence[Conversation]
    size: Size
    is_cut: bool


def read(
    conversations: Iterable[Conversation], *, max_rows: int = MAX_ROWS, max_characters: int = MAX_CHARACTERS
) -> Read:
    """Read on until the file ends or enough is known."""
    kept: list[Conversation] = []
    characters = 0
    for conversation in conversations:
        if len(kept) >= max_rows or characters >= max_characters:
            return Read(conversations=kept, size=Size(rows=len(kept), characters=characters), is_cut=True)
        kept.append(conversation)
        characters += sum(len(turn.content) for turn in conversation.turns)
    return Read(conversations=kept, size=Size(rows=len(kept), characters=characters), is_cut=False)


def share(part: Read, whole: Size, examples: Sequence[Example]) -> Share:
    """Say what a part stands for.

    Tokens grow as characters do. They may be as many as the rows say instead, or differ along the rest of the file as
    much as they do between tenths of the part: these give the bounds.

    Args:
        part: What was read.
        whole: What validation counted in the file.
        examples: The part's rows, rendered, in their order.
    """
    if not part.is_cut:
        return WHOLE
    by_rows = whole.rows / part.size.rows
    by_characters = whole.characters / max(part.size.characters, 1)
    mean = sum(map(len, examples)) / len(examples)
    tenths = [sum(map(len, block)) / len(block) / mean for block in _blocks(examples, -(-len(examples) // BLOCKS))]
    return Share(
        rows=by_rows,
        tokens=by_characters,
        low=min(by_rows, by_characters) * min(tenths),
        high=max(by_rows, by_characters) * max(tenths),
    )


def _blocks(examples: Sequence[Example], size: int) -> Iterable[Sequence[Example]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))
