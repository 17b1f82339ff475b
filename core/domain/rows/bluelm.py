"""BlueLM's own rows: role markers stand inside `inputs`, so they are taken out here.

Whoever renders the conversation (core/text/chat.py) puts them back, once.
"""

import re
from typing import Final

from core.domain.datasets import Turn
from core.domain.faults import BadRow, shown
from core.domain.rows import fields
from core.domain.rows.fields import Fields
from core.errors import Finding

HUMAN: Final = "[|Human|]:"
AI: Final = "[|AI|]:"
_MARKER: Final = re.compile(r"(\[\|(?:Human|AI)\|\]:)")


def read(row: Fields) -> tuple[Turn, ...]:
    """Read a row. Raises BadRow."""
    inputs, answer = fields.text(row, "inputs"), fields.text(row, "targets")
    answer = answer.removesuffix("</s>")
    if not answer or answer.isspace():
        raise BadRow(fields.no_answer("targets"))
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
        raise BadRow(fields.blank("inputs", "empty_prompt", f"inputs holds no text after {marker}."))
    return said


def _misplaced(message: str) -> Finding:
    return Finding(
        code="misplaced_marker",
        field="inputs",
        message=message,
        hint=f"inputs reads {HUMAN}question{AI}, earlier turns before it in the same way.",
    )
