"""Warnings about a data set that can be trained on: one a kind, with an exact count and the first lines.

Knows numbers, no rows: core/domain/census.py counts them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from core.domain.census import SPACE_AFTER_ANSWER, Census
from core.domain.columns import Seen
from core.domain.datasets import MAX_LINES, DatasetFinding
from core.domain.repeats import Group, Repeated

FEW_ANSWERS_SHARE: Final = 0.05
FEW_ANSWERS_LEAST_ROWS: Final = 20


@dataclass(frozen=True, slots=True)
class _Words:
    message: str
    hint: str


_ODD: Final[Mapping[str, _Words]] = {
    "control_token_in_text": _Words(
        "{rows} with a string that looks like one of the model's control tokens.",
        "It is trained on as plain characters; remove it if it was left over from another format.",
    ),
    "garbled_text": _Words(
        "{rows} with text that looks garbled, as if it was read in another encoding than it was written in.",
        "Export them again as UTF-8; look at the lines named, and keep them if they are meant so.",
    ),
    "invisible_characters": _Words(
        "{rows} with characters that can't be seen: zero-width ones, or overrides of the direction of writing.",
        "They are learnt like any other; remove them if they came with copying.",
    ),
    "control_characters": _Words(
        "{rows} with control characters, such as those that colour a terminal.",
        "They are learnt like any other; remove them if they came from a log.",
    ),
    SPACE_AFTER_ANSWER: _Words(
        "{rows} with an answer that ends in white space.",
        "It is learnt as part of the answer; trim it unless that is what you want.",
    ),
}


def about_fields(
    formats: Mapping[str, Seen], empty_inputs: Seen, with_input: int, unread: Mapping[str, Seen]
) -> Iterable[DatasetFinding]:
    """Write the warnings about rows' fields: from the formats with their rows, `input` fields, and fields left unread.

    An `input` that is empty in all rows is the tutorial's shape, and no oddity.
    """
    if len(formats) > 1:
        named = ", ".join(f"{_count(seen.rows, 'row')} of {name}" for name, seen in formats.items())
        rest = list(formats.values())[1:]
        yield _told(
            "mixed_formats",
            f"The file mixes formats: {named}; the lines named are the first of each but the first.",
            "All are read; is that what you meant?",
            Seen(sum(seen.rows for seen in rest), [seen.first[0] for seen in rest]),
        )
    if unread:
        yield _told(
            "unread_fields",
            f"Nothing is made of {', '.join(sorted(unread))} ({{rows}} at most).",
            "That is fine for notes about where a row is from; rename a field that should be trained on.",
            max(unread.values(), key=lambda seen: seen.rows),
        )
    if 0 < empty_inputs.rows < with_input:
        yield _told(
            "empty_inputs",
            f"{{rows}} of {with_input} with an empty input, where others have one.",
            "Fine where the instruction says all; otherwise the export lost something.",
            empty_inputs,
        )


def about_rows(census: Census, repeated: Repeated, *, by_number: bool) -> list[DatasetFinding]:
    """Write the warnings about texts.

    Args:
        census: Of all rows.
        repeated: The outcome of its comparison.
        by_number: Whether rows are named by number too, as lines may say nothing (a JSON array on one line).
    """
    found = list(_about_repeats(census, repeated, by_number=by_number))
    for code, words in _ODD.items():
        if (seen := census.odd[code]).rows:
            found.append(_told(code, words.message, words.hint, seen, by_number=by_number))
    return found


def _about_repeats(census: Census, repeated: Repeated, *, by_number: bool) -> Iterable[DatasetFinding]:
    def say(code: str, message: str, hint: str, group: Group) -> DatasetFinding:
        seen = Seen(group.rows, [(row, census.repeats.line(row)) for row in group.first])
        among = f" among the first {repeated.compared}" if repeated.compared < census.rows else ""
        return _told(code, message.replace("{among}", among), hint, seen, by_number=by_number)

    if repeated.duplicates.rows:
        yield say(
            "duplicate_rows",
            f"{{rows}} of {repeated.compared} the same as an earlier one{{among}}, word for word.",
            "Repeats weigh more in training; jobs leave them out with deduplicate: true.",
            repeated.duplicates,
        )
    if repeated.contested_prompts:
        yield say(
            "several_answers",
            f"{{rows}}{{among}} with a prompt that has other answers too ({_count(repeated.contested_prompts, 'prompt')}); "
            "the lines named have one prompt.",
            "The model learns a mixture; keep the best answer, unless variety is what you want.",
            repeated.contested,
        )
    few = max(1, int(FEW_ANSWERS_SHARE * repeated.prompts))
    if repeated.compared >= FEW_ANSWERS_LEAST_ROWS and repeated.answers <= few < repeated.prompts:
        length = census.answer_characters / census.rows
        yield say(
            "few_different_answers",
            f"{{rows}}{{among}} with no more than {_count(repeated.answers, 'different answer')}, of {length:.0f} characters on average.",
            "Right for telling classes apart; a model that shall talk learns to say nothing else.",
            Group(rows=repeated.compared, first=repeated.shared.first),
        )
    elif repeated.shared_answers:
        yield say(
            "same_answer_to_many",
            f"{{rows}}{{among}} with an answer that many prompts share ({_count(repeated.shared_answers, 'answer')}); "
            f"that of the lines named answers {repeated.most_prompts} different prompts.",
            "The model will give it to other prompts too; remove most of these rows unless that is what you want.",
            repeated.shared,
        )


def _told(code: str, message: str, hint: str, seen: Seen, *, by_number: bool = False) -> DatasetFinding:
    lines = tuple(dict.fromkeys(line for _, line in seen.first))[:MAX_LINES]
    numbers = ", ".join(str(row + 1) for row, _ in seen.first)
    more = ", …" if seen.rows > len(seen.first) else ""
    where = f" Rows {numbers}{more}." if by_number and numbers else ""
    return DatasetFinding(
        severity="warning",
        line=lines[0] if lines else None,
        field=None,
        code=code,
        message=message.replace("{rows}", _count(seen.rows, "row")) + where,
        hint=hint,
        lines=lines,
        count=seen.rows,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
