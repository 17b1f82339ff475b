"""Rows that are lists of messages: OpenAI's `messages` (role, content) and ShareGPT's `conversations` (from, value).

Both spellings are read in both, as files in the wild mix them.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from core.domain.datasets import Turn
from core.domain.faults import BadRow, shown
from core.domain.rows import fields
from core.domain.rows.fields import Fields
from core.errors import Finding

TOOLS: Final = ("tools", "functions", "function_call", "tool_choice")
MEDIA: Final = ("image", "images", "video", "videos", "audio", "audios")

_ROLES: Final[dict[object, Literal["system", "user", "assistant"]]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_TOOL_ROLES: Final = ("tool", "function", "function_call", "observation")
SPELLINGS: Final = (("role", "content"), ("from", "value"))
_EMPTY: Final = ("tool_calls", "tool_call_id", "function_call", "refusal", "audio", "images")
_UNREAD: Final = frozenset({"weight", "name", "id", "markdown", "text", *_EMPTY})
"""Beside role and text a message may have these; of them only `weight` means anything here."""


def openai(row: Fields) -> tuple[Turn, ...]:
    """Read a row. Raises BadRow."""
    return _read(row, "messages")


def sharegpt(row: Fields) -> tuple[Turn, ...]:
    """Read a row. Raises BadRow."""
    return _read(row, "conversations")


def _read(row: Fields, field: str) -> tuple[Turn, ...]:
    if len(row) > 1:
        fields.check_nothing(row, (*TOOLS, *MEDIA))
    turns = each(row[field], field)
    return ordered(turns, where=lambda place: f"{field}[{place}]", system=fields.system_turn(row))


def each(value: object, field: str) -> list[Turn]:
    """Read a list of messages, whatever their order. Raises BadRow."""
    if not isinstance(value, list):
        raise BadRow(fields.wrong_type(field, value, "a list of messages"))
    return [_turn(message, f"{field}[{number}]") for number, message in enumerate(value)]


def ordered(turns: Sequence[Turn], *, where: Callable[[int], str], system: tuple[Turn, ...] = ()) -> tuple[Turn, ...]:
    """Check that messages make a conversation: at most one system text, then user and assistant by turns.

    Args:
        turns: As they came.
        where: Names the field of a message by its place.
        system: The row's own system text, which then must be the only one.

    Raises:
        BadRow: A role is out of place, a text is missing, the last message is no answer, or none is to be learnt.
    """
    first = 1 if turns and turns[0].role == "system" else 0
    if first and turns[0].content and not turns[0].content.isspace():
        if system:
            raise BadRow(_misplaced(where(0), "The row has a system field and a system message.", "Keep one of them."))
        system = (turns[0],)
    for place in range(first, len(turns)):
        turn, due = turns[place], "assistant" if (place - first) % 2 else "user"
        if turn.role != due:
            what = f"A message of the {turn.role} stands where one of the {due} was due."
            raise BadRow(
                _misplaced(where(place), what, "A system message may come first, then user and assistant alternate.")
            )
        if not turn.content or turn.content.isspace():
            if place == len(turns) - 1 and due == "assistant":
                raise BadRow(fields.no_answer(where(place)))
            raise BadRow(fields.blank(where(place), "empty_turn", f"{where(place)} holds no text."))
    if len(turns) == first or (len(turns) - first) % 2:
        raise BadRow(_ends_unanswered(where(max(len(turns) - 1, 0))))
    said = tuple(turns[first:])
    if not any(turn.weight for turn in said[1::2]):
        raise BadRow(_nothing_to_learn(where(len(turns) - 1)))
    return system + said


def _turn(message: object, field: str) -> Turn:
    if not isinstance(message, dict):
        raise BadRow(fields.wrong_type(field, message, "an object with role and content"))
    named, said = SPELLINGS[0] if "role" in message else SPELLINGS[1]
    if len(message) != 2 or said not in message:
        _check_names(message, named, said, field)
    role = _ROLES.get(message[named]) if isinstance(message[named], str) else None
    if role is None:
        raise BadRow(_unknown_role(message[named], f"{field}.{named}"))
    content = message[said]
    if not isinstance(content, str):
        content = _joined(content, f"{field}.{said}")
    weight = message.get("weight")
    if weight is None:
        return Turn(role, content)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in {0, 1}:
        raise BadRow(_invalid_weight(f"{field}.weight"))
    return Turn(role, content, float(weight) if role == "assistant" else 1.0)


def _check_names(message: Fields, named: str, said: str, field: str) -> None:
    # First, since a message that calls a tool often has no content.
    fields.check_nothing(message, _EMPTY, within=f"{field}.")
    for name in (named, said):
        if name not in message:
            raise BadRow(
                Finding(
                    code="missing_field",
                    field=f"{field}.{name}",
                    message=f"The message has no {name}.",
                    hint="Messages have role and content, or from and value.",
                )
            )
    for name, value in message.items():
        if name not in {named, said} and name not in _UNREAD and value is not None:
            raise BadRow(
                Finding(
                    code="unknown_field",
                    field=f"{field}.{shown(name)}",
                    message=f"The message has an unknown field {shown(name)!r}.",
                    hint=f"Messages have {named}, {said} and, for answers, weight; remove the rest.",
                )
            )


def _joined(content: object, field: str) -> str:
    """Put the parts of a text together; nothing is added between them."""
    if not isinstance(content, list):
        raise BadRow(fields.wrong_type(field, content, "text"))
    texts: list[str] = []
    for number, part in enumerate(content):
        at = f"{field}[{number}]"
        if not isinstance(part, dict):
            raise BadRow(fields.wrong_type(at, part, 'a part {"type": "text", "text": "…"}'))
        if part.get("type") != "text":
            raise BadRow(fields.unsupported(at, f"{at} is of type {shown(str(part.get('type')), at_most=30)!r}"))
        texts.append(fields.text(part, "text"))
    return "".join(texts)


def _unknown_role(role: object, field: str) -> Finding:
    if role in _TOOL_ROLES:
        return fields.unsupported(field, f"{field} is {role!r}")
    if not isinstance(role, str):
        return fields.wrong_type(field, role, "text")
    return Finding(
        code="unknown_role",
        field=field,
        message=f"There is no role {shown(role, at_most=30)!r}.",
        hint="Roles are system, user and assistant; or, as in ShareGPT, system, human and gpt.",
    )


def _misplaced(field: str, message: str, hint: str) -> Finding:
    return Finding(code="misplaced_role", field=field, message=message, hint=hint)


def _ends_unanswered(field: str) -> Finding:
    return Finding(
        code="no_answer",
        field=field,
        message="The conversation does not end with an answer, so there is nothing to learn from its end.",
        hint="End each row with a message of the assistant; remove what stands after the last answer.",
    )


def _invalid_weight(field: str) -> Finding:
    return Finding(
        code="invalid_weight",
        field=field,
        message=f"{field} is neither 0 nor 1.",
        hint="1 trains on the answer, 0 only reads it; leave weight out for 1.",
    )


def _nothing_to_learn(field: str) -> Finding:
    return Finding(
        code="nothing_to_learn",
        field=field,
        message="Every answer has weight 0, so there is nothing to learn.",
        hint="Give at least one answer weight 1, or remove the row.",
    )
