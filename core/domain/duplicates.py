"""Rows that say all of an earlier one again, left out on request (`deduplicate`)."""

from collections.abc import Iterable
from dataclasses import dataclass

from core.domain.datasets import Conversation, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """The rows without duplicates, in the order they came, and the lines of those left out."""

    conversations: tuple[Conversation, ...]
    left_out_lines: tuple[int, ...]


def without(conversations: Iterable[Conversation]) -> Unique:
    """Keep the first of all rows with the same turns, word for word."""
    kept: dict[tuple[Turn, ...], Conversation] = {}
    left_out = tuple(one.line for one in conversations if kept.setdefault(one.turns, one) is not one)
    return Unique(conversations=tuple(kept.values()), left_out_lines=left_out)
