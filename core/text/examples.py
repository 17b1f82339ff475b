"""Tokenised training rows, and what becomes of those that are too long. Knows no chat format."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from core.domain.datasets import MAX_FINDINGS
from core.errors import Finding, Invalid

IGNORED: Final = -100
"""The label of a token that is read but not learnt (torch's `ignore_index`)."""

SHOWN_LINES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row as the model sees it: `input_ids` and `labels` of equal length, first label always IGNORED.

    `line` counts from 1 in the user's file; `truncated` says that `cut` has shortened the row.
    """

    input_ids: list[int]
    labels: list[int]
    line: int
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Rows of at most `max_length` tokens, in the order they came, and the lines of the others."""

    examples: list[Example]
    dropped_lines: tuple[int, ...]
    truncated_lines: tuple[int, ...]


class OverlongRows(Invalid):
    """Rows exceed the tokens that the spec allows; `findings` name the lines."""

    code = "rows_too_long"


def fit(rows: Iterable[Example], *, max_length: int, overlong: Literal["error", "drop", "truncate"]) -> Fitted:
    """Keep every row within `max_length` tokens, by the job's rule for overlong ones.

    Raises:
        OverlongRows: Under `error`, any row is too long; under `truncate`, a prompt leaves no room for an answer.
    """
    kept: list[Example] = []
    dropped: list[int] = []
    truncated: list[int] = []
    refused: list[Example] = []
    for row in rows:
        if len(row) <= max_length:
            kept.append(row)
        elif overlong == "drop":
            dropped.append(row.line)
        elif overlong == "truncate" and (shorter := cut(row, max_length=max_length)) is not None:
            kept.append(shorter)
            truncated.append(row.line)
        else:
            refused.append(row)
    if refused:
        raise _overlong(refused, max_length=max_length, prompts_only=overlong == "truncate")
    return Fitted(examples=kept, dropped_lines=tuple(dropped), truncated_lines=tuple(truncated))


def cut(row: Example, *, max_length: int) -> Example | None:
    """Shorten a row to `max_length` tokens by cutting an answer, whose end token (`</s>`) stays; None if none fits.

    Where the cut falls into a prompt, the row ends with the last whole learnt answer before it.
    """
    room = max_length - 1
    end = next(label for label in reversed(row.labels) if label != IGNORED)
    inside_answer = room >= 1 and row.labels[room - 1] != IGNORED and row.labels[room] != IGNORED
    if inside_answer:
        return replace(row, input_ids=[*row.input_ids[:room], end], labels=[*row.labels[:room], end], truncated=True)
    learnt = [place for place in range(min(max_length, len(row))) if row.labels[place] != IGNORED]
    # A lone first answer token at the very end would have to give way to its own end token.
    whole = [place for place in learnt if row.labels[place + 1 : place + 2] in ([], [IGNORED])]
    if not whole:
        return None
    keep = whole[-1] + 1
    return replace(row, input_ids=row.input_ids[:keep], labels=row.labels[:keep], truncated=True)


def _overlong(rows: list[Example], *, max_length: int, prompts_only: bool) -> OverlongRows:
    what = "prompt leaves no room for an answer within" if prompts_only else "row exceeds"
    hint = (
        "Shorten the prompts, raise max_length up to the base's context, or send overlong 'drop'."
        if prompts_only
        else "Raise max_length up to the base's context, shorten the rows, or send overlong 'drop' or 'truncate'."
    )
    lines = ", ".join(str(row.line) for row in rows[:SHOWN_LINES]) + (", …" if len(rows) > SHOWN_LINES else "")
    longest = max(len(row) for row in rows)
    return OverlongRows(
        f"In {len(rows)} row(s) the {what} {max_length} tokens (longest {longest}): line(s) {lines}. {hint}",
        param="max_length",
        findings=tuple(
            Finding(
                code="row_too_long",
                message=f"{len(row)} tokens; max_length is {max_length}.",
                line=row.line,
                field="overlong",
                hint=hint,
            )
            for row in rows[:MAX_FINDINGS]
        ),
    )
