import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.datasets import Conversation, Turn
from core.domain.splits import CannotSplit, split


def rows(*prompts: str) -> list[Conversation]:
    return [
        Conversation((Turn("user", prompt), Turn("assistant", f"answer {line}")), line)
        for line, prompt in enumerate(prompts, 1)
    ]


TEXTS = ("Who are you?", " who ARE\nyou？", "who are you", "Où es-tu ?", "你是谁？", "你是谁?")
SAME = ("who are you?", "who are you?", "who are you", "où es-tu ?", "你是谁?", "你是谁?")
"""What each of TEXTS is a copy of, whatever its case, width and spacing."""
CONVERSATIONS = st.tuples(
    st.integers(0, len(TEXTS) - 1),
    st.sampled_from((None, "You are a cat.", "You are a dog.")),
    st.integers(0, 2),
)


def conversation(line: int, asked: int, system: str | None, more: int) -> Conversation:
    head = () if system is None else (Turn("system", system),)
    turns = (Turn("user", TEXTS[asked]), Turn("assistant", f"answer {line}"))
    rest = (Turn("user", TEXTS[0]), Turn("assistant", "again")) * more
    return Conversation((*head, *turns, *rest), line)


@given(st.lists(CONVERSATIONS, min_size=2, max_size=60), st.floats(0.001, 0.5), st.integers(0, 9))
def test_no_copy_of_a_first_question_stands_on_both_sides(
    drawn: list[tuple[int, str | None, int]], ratio: float, seed: int
) -> None:
    if len({SAME[asked] for asked, _, _ in drawn}) < 2:
        drawn = [*drawn, (3, None, 0) if SAME[drawn[0][0]] != SAME[3] else (0, None, 0)]
    given_rows = [conversation(line, *one) for line, one in enumerate(drawn, 1)]
    copies = {row.line: SAME[drawn[row.line - 1][0]] for row in given_rows}

    both = split(given_rows, ratio=ratio, seed=seed)

    learnt, held_out = ([copies[row.line] for row in side] for side in (both.train, both.validation))
    assert learnt
    assert held_out
    assert not set(learnt) & set(held_out)
    assert sorted([*both.train, *both.validation], key=lambda row: row.line) == given_rows
    for side in (both.train, both.validation):
        assert [row.line for row in side] == sorted(row.line for row in side)
    assert split(given_rows, ratio=ratio, seed=seed) == both
    sizes = Counter(copies.values())
    at_most = math.floor(len(given_rows) * Fraction(str(ratio)))
    assert len(held_out) <= max(at_most, min(sizes.values()))
    fitting = [copy for copy in set(learnt) if len(held_out) + sizes[copy] <= at_most]
    assert len(fitting) <= 1, "one group is kept for training; every other that fits is held out"


def test_the_seed_decides() -> None:
    given_rows = rows(*(str(number) for number in range(100)))

    first, again, other = (split(given_rows, ratio=0.1, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert first.validation != other.validation
    assert len(first.validation) == 10


@pytest.mark.parametrize("ratio", [0.07, 0.29, 0.1, 0.35, 0.005])
def test_the_share_is_exact_where_every_row_asks_something_else(ratio: float) -> None:
    both = split(rows(*(str(number) for number in range(200))), ratio=ratio, seed=3)

    assert len(both.validation) == round(200 * ratio)


def test_rows_repeated_fifty_times_stay_together() -> None:
    given_rows = rows(*["你是谁？"] * 50, *["你叫什么？"] * 50, *(f"q{number}" for number in range(3000)))

    both = split(given_rows, ratio=0.05, seed=42)

    for name in ("你是谁？", "你叫什么？"):
        sides = [sum(row.turns[0].content == name for row in side) for side in (both.train, both.validation)]
        assert sorted(sides) == [0, 50]
    assert len(both.validation) == 155


@pytest.mark.parametrize("prompts", [("a", "A ", " a"), ("a",)])
def test_one_question_alone_cannot_be_split(prompts: tuple[str, ...]) -> None:
    with pytest.raises(CannotSplit, match="two different first questions"):
        split(rows(*prompts), ratio=0.5, seed=0)
