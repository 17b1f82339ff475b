"""Rows of prompt and completion: two texts, taken as they are, or two lists of messages.

Of lists only the answers in `completion` are learnt. White space at the ends of texts, and the separators that older
instructions ask for (such as ###), are the user's: nothing is cut here.
"""

from core.domain.datasets import Turn
from core.domain.faults import BadRow
from core.domain.rows import fields, messages
from core.domain.rows.fields import Fields


def read(row: Fields) -> tuple[Turn, ...]:
    """Read a row. Raises BadRow."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return _from_lists(row, prompt, completion)
    for name in ("prompt", "completion"):
        if not isinstance(row[name], str):
            wanted = "text" if not isinstance(row[name], list) else "text, as the other field is"
            raise BadRow(fields.wrong_type(name, row[name], wanted))
    asked, answer = fields.text(row, "prompt"), fields.text(row, "completion")
    if not asked or asked.isspace():
        raise BadRow(fields.blank("prompt", "empty_prompt", "prompt holds no text."))
    if not answer or answer.isspace():
        raise BadRow(fields.no_answer("completion"))
    return (*fields.system_turn(row), Turn("user", asked), Turn("assistant", answer))


def _from_lists(row: Fields, prompt: list[object], completion: list[object]) -> tuple[Turn, ...]:
    asked = [
        turn._replace(weight=0.0) if turn.role == "assistant" else turn for turn in messages.each(prompt, "prompt")
    ]
    answered = messages.each(completion, "completion")

    def where(place: int) -> str:
        return f"prompt[{place}]" if place < len(asked) else f"completion[{place - len(asked)}]"

    return messages.ordered([*asked, *answered], where=where, system=fields.system_turn(row))
