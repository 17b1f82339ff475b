"""What many good rows amount to: counts, lengths, characters, and the first rows of all that is odd.

Rows are looked at by the thousand, all their texts in one string, which costs a fraction of looking at each.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.domain import oddities, scripts, splits
from core.domain.columns import Seen
from core.domain.datasets import MAX_LINES, Turn
from core.domain.lengths import Tally
from core.domain.repeats import Repeats

BATCH_ROWS: Final = 2048
BATCH_CHARACTERS: Final = 2**22
"""Rows that are looked at together have no more of either; looking takes some 16 bytes a character."""
SPACE_AFTER_ANSWER: Final = "space_after_answer"
Turns = tuple[Turn, ...]

_UNITS: Final = 0x10000
_SURROGATES: Final = slice(0xD800, 0xDC00)
_IS_SPACE: Final = np.array([chr(unit).isspace() for unit in range(_UNITS)])


class Census:
    """Everything counted so far."""

    def __init__(self) -> None:
        self.rows = self.turns = self.prompt_characters = self.answer_characters = 0
        self.lengths = Tally()
        self.repeats = Repeats()
        self.odd = {code: Seen() for code in (*(kind.code for kind in oddities.KINDS), SPACE_AFTER_ANSWER)}
        self.is_splittable = False
        self._group: str | None = None
        self._units_U = np.zeros(_UNITS, dtype=np.int64)

    def look(self, batch: Sequence[Turns], lines: Sequence[int]) -> None:
        """Take rows in, with the lines they begin in."""
        if not batch:
            return
        if not self.is_splittable:
            self._look_for_groups(batch)
        answers = [row[-1][1] for row in batch]
        if set(map(len, batch)) == {2}:
            prompts, starts_R = [row[0][1] for row in batch], np.arange(len(batch))
            self.repeats.add(lines, map(hash, prompts), map(hash, answers))
        else:
            prompts, starts_R = [turn[1] for row in batch for turn in row[:-1]], _starts(batch)
            self.repeats.add(lines, map(_asked, batch), map(hash, answers))
        self.turns += len(prompts) + len(answers)
        lengths_T = self._look_at_texts(prompts + answers, batch, lines)
        asked_R, answered_R = np.add.reduceat(lengths_T[: len(prompts)], starts_R), lengths_T[len(prompts) :]
        self.prompt_characters += int(asked_R.sum())
        self.answer_characters += int(answered_R.sum())
        self.lengths.add(asked_R + answered_R)
        self.rows += len(batch)

    def scripts(self) -> dict[str, float]:
        """Shares of all letters by Unicode script."""
        return scripts.shares((chr(unit), int(self._units_U[unit])) for unit in np.flatnonzero(self._units_U))

    def _look_for_groups(self, batch: Sequence[Turns]) -> None:
        """Compare groups until two differ, which is at the second row of most files."""
        for row in batch:
            group = splits.group_of(row)
            if self._group is None:
                self._group = group
            elif group != self._group:
                self.is_splittable = True
                return

    def _look_at_texts(self, texts: Sequence[str], batch: Sequence[Turns], lines: Sequence[int]) -> NDArray[np.int64]:
        """Count characters and note what is odd; gives the texts' lengths. Answers come last, one a row."""
        joined = oddities.SEPARATOR.join(texts)
        text_C = np.frombuffer(joined.encode("utf-16-le"), dtype=np.uint16)
        units_U = np.bincount(text_C, minlength=_UNITS)
        units_U[0] = 0
        self._units_U += units_U
        ends_T = np.append(np.flatnonzero(text_C == 0), len(text_C))
        for code, places in oddities.find(joined, texts, units_U > 0).items():
            self._note(code, _rows_of(places, batch), lines)
        spaced = np.flatnonzero(_IS_SPACE[text_C[ends_T[-len(batch) :] - 1]])
        if len(spaced):
            self._note(SPACE_AFTER_ANSWER, set(spaced.tolist()), lines)
        if units_U[_SURROGATES].any():
            return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return np.diff(ends_T, prepend=-1) - 1

    def _note(self, code: str, rows: set[int], lines: Sequence[int]) -> None:
        seen = self.odd[code]
        seen.rows += len(rows)
        for row in sorted(rows)[: MAX_LINES - len(seen.first)]:
            seen.first.append((self.rows + row, lines[row]))


def _asked(row: Turns) -> int:
    """Hash what is asked; the last answer's weight is put with it, so that equal pairs are equal rows."""
    return hash(row[0][1]) if len(row) == 2 else hash((row[:-1], row[-1].weight))


def _starts(batch: Sequence[Turns]) -> NDArray[np.int64]:
    """Where each row's first text stands among the prompts of all."""
    sizes = [len(row) - 1 for row in batch]
    return np.cumsum([0, *sizes[:-1]])


def _rows_of(places: Iterable[int], batch: Sequence[Turns]) -> set[int]:
    """Find the rows of texts: prompts come first, row by row, then one answer a row."""
    asking = [row for row, turns in enumerate(batch) for _ in turns[:-1]]
    return {asking[place] if place < len(asking) else place - len(asking) for place in places}
