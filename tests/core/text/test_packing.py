"""Rows without padding: what goes where, and what happens to rows that are too long."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.text.examples import Example, OverlongRows, cut, fit
from core.text.packing import ExampleTooLong, first_fit, flatten, micro_batches


def example(prompt: int, answer: int, *, line: int = 1, end: int = 2) -> Example:
    """Make an example whose ids tell where they are from."""
    ids = [1000 * line + place for place in range(prompt + answer)] + [end]
    return Example(input_ids=ids, labels=[-100] * prompt + ids[prompt:], line=line)


def joined(*parts: Example) -> Example:
    return Example(
        input_ids=[id_ for part in parts for id_ in part.input_ids],
        labels=[label for part in parts for label in part.labels],
        line=1,
    )


def test_segments_follow_each_other_and_each_starts_anew() -> None:
    row = flatten([example(2, 1, line=1), example(1, 2, line=2)])
    assert row.input_ids_T == [1000, 1001, 1002, 2, 2000, 2001, 2002, 2]
    assert row.labels_T == [-100, -100, 1002, 2, -100, 2001, 2002, 2]
    assert row.position_ids_T == [0, 1, 2, 3, 0, 1, 2, 3]
    assert row.starts_S == [0, 4]


def test_the_first_label_of_a_segment_is_never_learnt() -> None:
    row = flatten([example(2, 1), Example(input_ids=[1, 5, 2], labels=[1, 5, 2], line=2)])
    assert row.labels_T[4:] == [-100, 5, 2]


def test_packed_rows_are_first_fit() -> None:
    assert first_fit([5, 6, 4, 3, 2, 7], pack_length=10) == [[0, 2], [1, 3], [4, 5]]


@given(st.lists(st.integers(1, 30), max_size=80))
def test_first_fit_is_what_a_plain_search_finds(lengths: list[int]) -> None:
    rows: list[list[int]] = []
    for index, length in enumerate(lengths):
        for row in rows:
            if sum(lengths[i] for i in row) + length <= 30:
                row.append(index)
                break
        else:
            rows.append([index])
    assert first_fit(lengths, pack_length=30) == rows


def test_first_fit_takes_a_hundred_thousand_rows_in_its_stride() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(20, 300) for _ in range(100_000)]
    rows = first_fit(lengths, pack_length=2048)
    assert sum(map(len, rows)) == len(lengths)
    assert sum(lengths) / (len(rows) * 2048) > 0.98


def test_a_step_is_split_in_its_order_and_a_long_row_stands_alone() -> None:
    assert micro_batches([3, 3, 3, 12, 1], max_tokens=9) == [[0, 1, 2], [3], [4]]
    assert micro_batches([], max_tokens=9) == []


def test_an_example_beyond_the_row_is_refused() -> None:
    with pytest.raises(ExampleTooLong, match="Example 1 has 12 tokens"):
        first_fit([3, 12], pack_length=11)


def test_overlong_rows_are_refused_by_their_lines() -> None:
    rows = [example(3, 2, line=4), example(3, 9, line=9), example(9, 9, line=11)]
    with pytest.raises(OverlongRows, match="9, 11") as caught:
        fit(rows, max_length=6, overlong="error")
    assert [finding.line for finding in caught.value.findings] == [9, 11]


def test_overlong_rows_are_dropped_or_cut_on_request() -> None:
    rows = [example(3, 2, line=4), example(3, 9, line=9)]
    dropped = fit(rows, max_length=6, overlong="drop")
    assert (dropped.examples, dropped.dropped_lines) == (rows[:1], (9,))
    cut_ = fit(rows, max_length=6, overlong="truncate")
    assert cut_.truncated_lines == (9,)
    assert cut_.examples[1].input_ids == [9000, 9001, 9002, 9003, 9004, 2]
    assert cut_.examples[1].labels == [-100, -100, -100, 9003, 9004, 2]
    assert cut_.examples[1].truncated


def test_a_prompt_without_room_for_an_answer_is_refused_even_when_cutting() -> None:
    with pytest.raises(OverlongRows, match="leaves no room"):
        fit([example(5, 3, line=2)], max_length=6, overlong="truncate")
    with pytest.raises(OverlongRows):
        fit([example(6, 3, line=2)], max_length=6, overlong="truncate")


def test_a_cut_in_a_later_prompt_ends_with_the_answer_before_it() -> None:
    row = joined(example(2, 2, line=1), example(5, 3, line=2))
    for length in range(5, 11):
        shorter = cut(row, max_length=length)
        assert shorter is not None
        assert shorter.input_ids == row.input_ids[:5]
    assert cut(row, max_length=12) == Example(
        input_ids=[*row.input_ids[:11], 2], labels=[*row.labels[:11], 2], line=1, truncated=True
    )


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=4), st.integers(1, 40))
def test_a_cut_row_fits_and_ends_with_the_end_token(turns: list[tuple[int, int]], length: int) -> None:
    row = joined(*(example(p, a, line=n) for n, (p, a) in enumerate(turns, start=1)))
    shorter = cut(row, max_length=length) if len(row) > length else row
    if shorter is None:
        first = turns[0]
        assert first[0] + min(first[1], 1) + 1 > length
        return
    assert len(shorter) <= length
    assert shorter.input_ids[-1] == shorter.labels[-1] == 2
    assert shorter.input_ids[:-1] == row.input_ids[: len(shorter) - 1]
    assert shorter.labels[:-1] == row.labels[: len(shorter) - 1]
