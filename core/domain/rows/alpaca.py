"""The tutorial's rows: instruction and input are the prompt, put together as they are; output is the answer."""

from core.domain.datasets import Turn
from core.domain.faults import BadRow
from core.domain.rows import fields
from core.domain.rows.fields import Fields
from core.errors import Finding


def read(row: Fields) -> tuple[Turn, ...]:
    """Read a row. Raises BadRow."""
    instruction, addition, answer = row["instruction"], row.get("input", ""), row["output"]
    if not (type(instruction) is type(addition) is type(answer) is str):
        raise BadRow(*_not_text(row, ("instruction", "input", "output")))
    prompt = instruction + addition
    if not prompt or prompt.isspace():
        raise BadRow(fields.blank("instruction", "empty_prompt", "instruction and input hold no text."))
    if not answer or answer.isspace():
        raise BadRow(fields.no_answer("output"))
    asked = (Turn("user", prompt), Turn("assistant", answer))
    if len(row) == 3 and "input" in row:
        return asked
    return fields.system_turn(row) + _history(row.get("history")) + asked


def _history(value: object) -> tuple[Turn, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRow(fields.wrong_type("history", value, "a list of [question, answer] pairs"))
    turns: list[Turn] = []
    for number, pair in enumerate(value):
        field = f"history[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(fields.wrong_type(field, pair, "a pair [question, answer]"))
        for place, role in enumerate(("user", "assistant")):
            text = pair[place]
            if not isinstance(text, str):
                raise BadRow(fields.wrong_type(f"{field}[{place}]", text, "text"))
            if not text or text.isspace():
                raise BadRow(fields.blank(f"{field}[{place}]", "empty_turn", f"{field}[{place}] holds no text."))
            turns.append(Turn("user" if role == "user" else "assistant", text))
    return tuple(turns)


def _not_text(row: Fields, names: tuple[str, ...]) -> list[Finding]:
    return [fields.wrong_type(name, row[name], "text") for name in names if not isinstance(row.get(name, ""), str)]
