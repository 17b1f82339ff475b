"""One row's fields to a conversation: the tutorial's instruction/input/output, and BlueLM's own inputs/targets.

A format is known by its fields. Text is never changed, but for role markers: `inputs` carries them inside, so
they are taken out here and put back, once, by whoever renders the conversation (core/text/chat.py).
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.domain.datasets import Turn
from core.domain.faults import BadRow, shown
from core.errors import Finding

Fields = Mapping[str, object]
CONTROL: Final = re.compile(r"\[\|(?:Human|AI)\|\]:|\[SE[HA]\]|</?s>|<unk>|<pad>")
"""Strings that are single control tokens of BlueLM; in text they are encoded as plain characters."""

HUMAN: Final = "[|Human|]:"
AI: Final = "[|AI|]:"
_MARKER: Final = re.compile(r"(\[\|(?:Human|AI)\|\]:)")


@dataclass(frozen=True, slots=True)
class Format:
    """A row format: its fields, and how they become turns. `read` raises BadRow."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Fields], tuple[Turn, ...]]

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, required ones first."""
        return self.required + self.optional


@lru_cache(maxsize=1024)
def format_of(names: tuple[str, ...]) -> Format:
    """Find the format with these fields.

    Raises:
        BadRow: A field is missing, or unknown (the nearest known one is named).
    """
    best = max(FORMATS, key=lambda known: len(set(known.fields) & set(names)))
    if not set(best.fields) & set(names):
        raise BadRow(_foreign(names))
    missing = [_missing(name, best) for name in best.required if name not in names]
    unknown = [name for name in names if name not in best.fields]
    if missing or unknown:
        raise BadRow(*missing, *(_unknown(name, best, names) for name in unknown[:8]))
    return best


def has_control_tokens(turns: tuple[Turn, ...]) -> bool:
    """Say whether any text holds a string that looks like one of the model's control tokens."""
    for turn in turns:
        text = turn.content
        if ("[" in text or "<" in text) and CONTROL.search(text):
            return True
    return False


def _alpaca(row: Fields) -> tuple[Turn, ...]:
    instruction, addition, answer = row["instruction"], row.get("input", ""), row["output"]
    if not (isinstance(instruction, str) and isinstance(addition, str) and isinstance(answer, str)):
        raise BadRow(*_not_text(row, ("instruction", "input", "output")))
    prompt = instruction + addition
    if not prompt or prompt.isspace():
        raise BadRow(_blank("instruction", "empty_prompt", "instruction and input hold no text."))
    if not answer or answer.isspace():
        raise BadRow(_blank("output", "empty_answer", "output holds no text, so there is nothing to learn."))
    asked = (Turn("user", prompt), Turn("assistant", answer))
    if len(row) == 3 and "input" in row:
        return asked
    system = _text(row, "system")
    head = (Turn("system", system),) if system and not system.isspace() else ()
    return head + _history(row.get("history", [])) + asked


def _history(value: object) -> tuple[Turn, ...]:
    if not isinstance(value, list):
        raise BadRow(_wrong_type("history", value, "a list of [question, answer] pairs"))
    turns: list[Turn] = []
    for number, pair in enumerate(value):
        field = f"history[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRow(_wrong_type(field, pair, "a pair [question, answer]"))
        for place, role in enumerate(("user", "assistant")):
            text = pair[place]
            if not isinstance(text, str):
                raise BadRow(_wrong_type(f"{field}[{place}]", text, "text"))
            if not text or text.isspace():
                raise BadRow(_blank(f"{field}[{place}]", "empty_turn", f"{field}[{place}] holds no text."))
            turns.append(Turn("user" if role == "user" else "assistant", text))
    return tuple(turns)


def _bluelm(row: Fields) -> tuple[Turn, ...]:
    inputs, answer = _text(row, "inputs"), _text(row, "targets")
    answer = answer.removesuffix("</s>")
    if not answer or answer.isspace():
        raise BadRow(_blank("targets", "empty_answer", "targets holds no text, so there is nothing to learn."))
    return (*_unmarked(inputs), Turn("assistant", answer))


def _unmarked(inputs: str) -> tuple[Turn, ...]:
    """Take the role markers out of `inputs`: `[|Human|]:…[|AI|]:`, as often as there were turns.

    White space beside a marker has no meaning: the official files hold a line feed before it in half of the rows,
    and the tokenizer of the training version dropped it.
    """
    lead, *rest = _MARKER.split(inputs.strip().removeprefix("<s>"))
    if not rest:
        return (Turn("user", _said(lead, "the start")),)
    if lead.strip():
        raise BadRow(_misplaced(f"inputs has text before its first {HUMAN}: {shown(lead.strip(), at_most=30)!r}."))
    markers, texts = rest[::2], rest[1::2]
    if markers[-1] == AI and not texts[-1].strip():
        del markers[-1], texts[-1]
    turns: list[Turn] = []
    for number, (marker, text) in enumerate(zip(markers, texts, strict=True)):
        if marker != (HUMAN, AI)[number % 2]:
            raise BadRow(_misplaced(f"In inputs, {marker} stands where {(HUMAN, AI)[number % 2]} was due."))
        turns.append(Turn("user" if marker == HUMAN else "assistant", _said(text, marker)))
    if len(turns) % 2 == 0:
        raise BadRow(_misplaced(f"inputs ends with an answer; the answer to learn belongs in targets, after {AI}."))
    return tuple(turns)


def _said(text: str, marker: str) -> str:
    said = text.strip()
    if marker == AI:
        said = said.removesuffix("</s>").strip()
    if not said:
        raise BadRow(_blank("inputs", "empty_prompt", f"inputs holds no text after {marker}."))
    return said


def _text(row: Fields, field: str) -> str:
    value = row.get(field, "")
    if not isinstance(value, str):
        raise BadRow(_wrong_type(field, value, "text"))
    return value


def _not_text(row: Fields, names: tuple[str, ...]) -> list[Finding]:
    return [_wrong_type(name, row[name], "text") for name in names if not isinstance(row.get(name, ""), str)]


def _wrong_type(field: str, value: object, wanted: str) -> Finding:
    got = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    got = "text" if isinstance(value, str) else got
    hint = 'Write "" or leave the field out.' if value is None else f"Write {field} as {wanted}."
    if wanted == "text" and isinstance(value, int | float) and not isinstance(value, bool):
        hint = f'Put it in quotation marks: "{str(value)[:40]}".'
    return Finding(code="wrong_type", field=field, message=f"{field} is {got}, not {wanted}.", hint=hint)


def _blank(field: str, code: str, message: str) -> Finding:
    return Finding(code=code, field=field, message=message, hint="Fill it, or remove the row.")


def _misplaced(message: str) -> Finding:
    return Finding(
        code="misplaced_marker",
        field="inputs",
        message=message,
        hint=f"inputs reads {HUMAN}question{AI}, earlier turns before it in the same way.",
    )


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
    Format("alpaca", ("instruction", "output"), ("input", "system", "history"), _alpaca),
    Format("bluelm", ("inputs", "targets"), (), _bluelm),
)
