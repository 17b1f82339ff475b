"""One row's fields to a conversation, in whatever format they come.

A format is known by its fields. Text is never changed, but for BlueLM's role markers (bluelm.py).
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.domain.datasets import Turn
from core.domain.faults import BadRow, shown
from core.domain.rows import alpaca, bluelm, completions, messages
from core.domain.rows.control import CONTROL
from core.domain.rows.control import is_in as has_control_tokens
from core.domain.rows.fields import Fields
from core.errors import Finding

__all__ = ["CONTROL", "FORMATS", "LISTS", "Fields", "Format", "format_of", "has_control_tokens"]

UNREAD: Final = frozenset(
    {
        "id",
        "_id",
        "idx",
        "index",
        "uid",
        "uuid",
        "source",
        "dataset",
        "model",
        "metadata",
        "meta",
        "category",
        "tags",
        "topic",
        "language",
        "lang",
        "score",
        "split",
        "hash",
        "timestamp",
        "created",
        "created_at",
        "license",
        "url",
    }
)
"""Columns that say where a row is from; they are left unread in every format, and a warning names them."""
LISTS: Final = frozenset({"history", "messages", "conversations"})
"""Fields that are lists; in a table whose cells are texts they stand as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A row format: its fields, and how they become turns. `read` raises BadRow.

    Fields in `empty` are known, and refused unless they hold nothing; those in `unread` are left alone.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    unread: frozenset[str] = UNREAD
    read: Callable[[Fields], tuple[Turn, ...]]

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields that mean something, required ones first."""
        return self.required + self.optional


@lru_cache(maxsize=1024)
def format_of(names: tuple[str, ...]) -> Format:
    """Find the format with these fields.

    Raises:
        BadRow: A field is missing, or unknown (the nearest known one is named).
    """
    given = set(names)
    best = max(FORMATS, key=lambda known: (given.issuperset(known.required), len(given.intersection(known.fields))))
    if not given.intersection(best.fields):
        raise BadRow(_foreign(names))
    missing = [_missing(name, best) for name in best.required if name not in given]
    unknown = [name for name in names if name not in best.fields and name not in best.empty and name not in best.unread]
    if missing or unknown:
        raise BadRow(*missing, *(_unknown(name, best, names) for name in unknown[:8]))
    return best


def _missing(name: str, best: Format) -> Finding:
    return Finding(
        code="missing_field",
        field=name,
        message=f"The row has no {name}.",
        hint=f"Rows of this format have {', '.join(best.required)}.",
    )


def _unknown(name: str, best: Format, names: tuple[str, ...]) -> Finding:
    near = difflib.get_close_matches(name[:60], [known for known in best.fields if known not in names], n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known fields are {', '.join(best.fields)}; remove the rest."
    return Finding(
        code="unknown_field", field=shown(name), message=f"The row has an unknown field {shown(name)!r}.", hint=hint
    )


def _foreign(names: tuple[str, ...]) -> Finding:
    listed = ", ".join(shown(name) for name in names[:8]) or "none"
    return Finding(
        code="unknown_format",
        message=f"The row's fields ({listed}) belong to no format that is read here.",
        hint="Use " + " or ".join("/".join(known.required) for known in FORMATS) + ".",
    )


FORMATS: Final = (
    Format(
        name="alpaca",
        required=("instruction", "output"),
        optional=("input", "system", "history"),
        unread=UNREAD | {"text"},
        read=alpaca.read,
    ),
    Format(name="bluelm", required=("inputs", "targets"), read=bluelm.read),
    Format(
        name="openai",
        required=("messages",),
        optional=("system",),
        empty=messages.TOOLS + messages.MEDIA,
        unread=UNREAD | {"prompt", "prompt_id", "parallel_tool_calls"},
        read=messages.openai,
    ),
    Format(
        name="sharegpt",
        required=("conversations",),
        optional=("system",),
        empty=messages.TOOLS + messages.MEDIA,
        read=messages.sharegpt,
    ),
    Format(name="prompt_completion", required=("prompt", "completion"), optional=("system",), read=completions.read),
)
