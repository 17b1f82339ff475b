"""Conversations checked and put in order: at most one system text, then user and assistant by turns.

Knows no tokens and no chat format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.domain.datasets import Turn
from core.domain.generation import InvalidMessages, Message
from core.errors import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """`turns` are user, assistant, user, …; `system` is None where there is none, or an empty one."""

    system: str | None
    turns: tuple[Turn, ...]


def arrange(
    messages: Sequence[Turn | Message], *, system: str | None, ends_with: Literal["user", "assistant"]
) -> Dialogue:
    """Check the order of roles and settle the system text: the conversation's own wins, an empty one means none.

    Raises:
        InvalidMessages: A role is out of order, the last turn is of the other side, or a last user turn is empty.
    """
    turns = tuple(m if isinstance(m, Turn) else Turn(m.role, m.content) for m in messages)
    first = 0
    if turns and turns[0].role == "system":
        system, first = turns[0].content, 1
    for place, turn in enumerate(turns[first:], start=first):
        expected = "user" if (place - first) % 2 == 0 else "assistant"
        if turn.role != expected:
            raise _wrong(
                f"Turn {place + 1} is of the {turn.role}; expected one of the {expected}.",
                place=place,
                hint="At most one system turn comes first, then user and assistant alternate.",
            )
    if len(turns) == first:
        raise _wrong("There is no user turn.", place=first, hint="Send at least one user turn.")
    last = turns[-1]
    if last.role != ends_with:
        raise _wrong(
            f"The last turn is of the {last.role}; expected one of the {ends_with}.",
            place=len(turns) - 1,
            hint=f"End the conversation with the {ends_with}.",
        )
    if last.role == "user" and not last.content.strip():
        raise _wrong("The last user turn is empty.", place=len(turns) - 1, hint="Say something.")
    return Dialogue(system=system if system and system.strip() else None, turns=turns[first:])


def _wrong(message: str, *, place: int, hint: str) -> InvalidMessages:
    field = f"messages.{place}"
    return InvalidMessages(
        f"{message} {hint}",
        param=field,
        findings=(Finding(code=InvalidMessages.code, message=message, field=field, hint=hint),),
    )
