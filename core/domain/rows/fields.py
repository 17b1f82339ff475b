"""What readers of all formats share: taking fields out of a row, and saying what is wrong with them."""

from collections.abc import Iterable, Mapping
from typing import Final

from core.domain.datasets import Turn
from core.domain.faults import BadRow
from core.errors import Finding

Fields = Mapping[str, object]
NOTHING: Final[tuple[object, ...]] = (None, "", "[]", "{}", [], {})
"""Values of a field that says nothing, as exports write them."""


def text(row: Fields, field: str) -> str:
    """The text in a field; "" where it is missing. Raises BadRow."""
    value = row.get(field, "")
    if not isinstance(value, str):
        raise BadRow(wrong_type(field, value, "text"))
    return value


def system_turn(row: Fields) -> tuple[Turn, ...]:
    """The turn that a row's own `system` field makes: one, or none where it is blank or missing. Raises BadRow."""
    if row.get("system") is None:
        return ()
    system = text(row, "system")
    return (Turn("system", system),) if system and not system.isspace() else ()


def check_nothing(row: Fields, names: Iterable[str], *, within: str = "") -> None:
    """Refuse what a text model can't learn. Raises BadRow."""
    for name in names:
        if row.get(name) not in NOTHING:
            raise BadRow(unsupported(within + name, f"{within}{name} is not empty"))


def unsupported(field: str, what: str) -> Finding:
    """The finding about tools, images and the like."""
    return Finding(
        code="unsupported_content",
        field=field,
        message=f"{what}; only text is trained on, without tools, images or sound.",
        hint="Remove the row, or write what matters as text.",
    )


def wrong_type(field: str, value: object, wanted: str) -> Finding:
    """The finding about a value of another kind."""
    got = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    got = "text" if isinstance(value, str) else got
    hint = 'Write "" or leave the field out.' if value is None else f"Write {field} as {wanted}."
    if wanted == "text" and isinstance(value, int | float) and not isinstance(value, bool):
        hint = f'Put it in quotation marks: "{str(value)[:40]}".'
    return Finding(code="wrong_type", field=field, message=f"{field} is {got}, not {wanted}.", hint=hint)


def blank(field: str, code: str, message: str) -> Finding:
    """The finding about a text that has to be there."""
    return Finding(code=code, field=field, message=message, hint="Fill it, or remove the row.")


def no_answer(field: str) -> Finding:
    """The finding about an answer without text."""
    return blank(field, "empty_answer", f"{field} holds no text, so there is nothing to learn.")
