"""Rows that repeat each other: exact duplicates, prompts with several answers, answers that many prompts share.

Twenty bytes a row, in three arrays. Hashes are Python's own, keyed anew in each process: they are compared here and
never stored. Counting goes by slices of the hashes, so that no second array as large as the first is made.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.domain.datasets import MAX_LINES

COMPARED_ROWS: Final = 8_000_000
"""Rows after these are not compared: 160 MB, and 1 GB of the tutorial's rows are 4.8 million."""
SLICE_ROWS: Final = 500_000
MANY_PROMPTS: Final = 10
MANY_SHARE: Final = 0.01
"""An answer is told of if it answers so many different prompts, and such a share of all of them."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows of one kind: how many there are, and the first ones, as indices."""

    rows: int
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What the comparison found.

    `contested` are rows whose prompt has other answers too, of `contested_prompts` prompts; its examples share one
    prompt. `shared` are rows whose answer many prompts share (`shared_answers` of them); its examples share the answer
    of the most prompts, `most_prompts`.
    """

    compared: int
    prompts: int
    answers: int
    duplicates: Group
    contested: Group
    contested_prompts: int
    shared: Group
    shared_answers: int
    most_prompts: int


class Repeats:
    """Takes hashes in, row by row, and compares them in the end."""

    def __init__(self) -> None:
        self._prompts = array("q")
        self._answers = array("q")
        self._lines = array("I")

    def add(self, lines: Iterable[int], prompts: Iterable[int], answers: Iterable[int]) -> None:
        """Take rows in: their lines, and the hashes of what is asked and of what is answered."""
        if len(self._prompts) < COMPARED_ROWS:
            self._lines.extend(lines)
            self._prompts.extend(prompts)
            self._answers.extend(answers)

    def line(self, row: int) -> int:
        """The line of a compared row."""
        return self._lines[row]

    def compare(self) -> Repeated:
        """Count. Indices in the outcome are those of the rows in the order they were added."""
        prompts = np.frombuffer(self._prompts, dtype=np.int64)
        answers = np.frombuffer(self._answers, dtype=np.int64)
        asked = _Asked()
        for some in _slices(prompts, answers):
            asked.look(some)
        answered = _Answered(threshold=max(MANY_PROMPTS, int(asked.prompts * MANY_SHARE)))
        for some in _slices(answers, prompts):
            answered.look(some)
        return Repeated(
            compared=len(prompts),
            prompts=asked.prompts,
            answers=answered.answers,
            duplicates=Group(rows=asked.duplicates, first=asked.first_duplicates),
            contested=Group(rows=asked.contested, first=asked.example),
            contested_prompts=asked.contested_prompts,
            shared=Group(rows=answered.shared, first=answered.example),
            shared_answers=answered.shared_answers,
            most_prompts=answered.most_prompts,
        )


@dataclass(frozen=True, slots=True)
class _Slice:
    """Some of the rows, all with an equal key among them: `distinct` keys, and the rows whose key comes twice or more.

    Those are sorted by key, then by the other hash, then by index; `starts` are the places where a new key begins,
    `changes` says where a key or the other hash is not that of the row before.
    """

    distinct: int
    rows_R: Ints
    starts: Ints
    changes_R: NDArray[np.bool_]

    def sizes(self) -> Ints:
        """Rows by key."""
        return np.diff(self.starts, append=len(self.rows_R))

    def others(self) -> Ints:
        """Different other hashes by key."""
        return np.add.reduceat(self.changes_R.astype(np.int64), self.starts)

    def example(self, keys: Ints) -> tuple[int, ...]:
        """Of these keys (by place) the one that comes first: a row for each of its other hashes, the first ones."""
        place = keys[np.argmin(np.minimum.reduceat(self.rows_R, self.starts)[keys])]
        group = slice(self.starts[place], self.starts[place] + self.sizes()[place])
        return _smallest(self.rows_R[group][self.changes_R[group]])


def _slices(keys: Ints, others: Ints) -> Iterator[_Slice]:
    count = min(256, 1 + len(keys) // SLICE_ROWS)
    # Low bytes are as evenly spread as the hashes; the view copies one byte a row.
    low = np.ascontiguousarray(keys.view(np.uint8)[::8]) % count if count > 1 else None
    for number in range(count):
        rows = np.arange(len(keys)) if low is None else np.flatnonzero(low == number)
        yield _slice(rows, keys[rows], others)


def _slice(rows: Ints, keys: Ints, others: Ints) -> _Slice:
    ordered = np.sort(keys)
    again = ordered[1:] == ordered[:-1]
    distinct = len(ordered) - int(again.sum())
    is_repeated = _among(keys, ordered[1:][again])
    rows, keys = rows[is_repeated], keys[is_repeated]
    other = others[rows]
    order = np.lexsort((other, keys))
    rows, keys, other = rows[order], keys[order], other[order]
    begins = np.ones(len(rows), dtype=np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    changes = begins.copy()
    changes[1:] |= other[1:] != other[:-1]
    return _Slice(distinct, rows, np.flatnonzero(begins), changes)


def _among(keys: Ints, repeated: Ints) -> NDArray[np.bool_]:
    """Say which keys are among `repeated`, which is sorted."""
    if not len(repeated):
        return np.zeros(len(keys), dtype=np.bool_)
    places = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
    return np.asarray(repeated[places] == keys)


class _Asked:
    """Prompts: rows that say all of an earlier one again, and prompts that have several answers."""

    def __init__(self) -> None:
        self.prompts = self.duplicates = self.contested = self.contested_prompts = 0
        self.first_duplicates: tuple[int, ...] = ()
        self.example: tuple[int, ...] = ()

    def look(self, some: _Slice) -> None:
        self.prompts += some.distinct
        twins = some.rows_R[~some.changes_R]
        self.duplicates += len(twins)
        self.first_duplicates = _smallest((*self.first_duplicates, *_smallest(twins)))
        if not len(some.starts):
            return
        sizes, answers = some.sizes(), some.others()
        several = np.flatnonzero(answers > 1)
        self.contested_prompts += len(several)
        self.contested += int(sizes[several].sum())
        if len(several):
            found = some.example(several)
            self.example = min(self.example or found, found)


class _Answered:
    """Answers that at least `threshold` different prompts share."""

    def __init__(self, *, threshold: int) -> None:
        self.answers = self.shared = self.shared_answers = self.most_prompts = 0
        self.example: tuple[int, ...] = ()
        self._threshold = threshold

    def look(self, some: _Slice) -> None:
        self.answers += some.distinct
        if not len(some.starts):
            return
        sizes, prompts = some.sizes(), some.others()
        many = np.flatnonzero(prompts >= self._threshold)
        self.shared_answers += len(many)
        self.shared += int(sizes[many].sum())
        if len(many):
            most = int(prompts[many].max())
            found = some.example(many[prompts[many] == most])
            # Of equals the earliest, so that the same file always gets the same answer.
            self.most_prompts, self.example = min(
                (self.most_prompts, self.example), (most, found), key=lambda one: (-one[0], one[1])
            )


def _smallest(rows: Ints | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(row) for row in np.sort(np.asarray(rows, dtype=np.int64))[:MAX_LINES])
