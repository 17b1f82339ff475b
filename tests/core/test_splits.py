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


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60), st.floats(0.001, 0.999), st.integers(0, 9))
def test_no_prompt_stands_on_both_sides(prompts: list[str], ratio: float, seed: int) -> None:
    if len(set(prompts)) < 2:
        prompts.append("another")
    given_rows = rows(*prompts)

    both = split(given_rows, ratio=ratio, seed=seed)

    asked = [{row.turns[0].content for row in side} for side in (both.train, both.validation)]
    assert asked[0]
    assert asked[1]
    assert not asked[0] & asked[1]
    assert sorted([*both.train, *both.validation], key=lambda row: row.line) == given_rows
    for side in (both.train, both.validation):
        assert [row.line for row in side] == sorted(row.line for row in side)
    largest_alone = min(prompts.count(prompt) for prompt in prompts)
    assert len(both.validation) <= max(int(len(prompts) * ratio), largest_alone)


def test_the_seed_decides() -> None:
    given_rows = rows(*(str(number) for number in range(100)))

    first, again, other = (split(given_rows, ratio=0.1, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert first.validation != other.validation
    assert len(first.validation) == 10


def test_the_first_question_and_the_system_text_make_a_group() -> None:
    ask, tell = Turn("user", "a"), Turn("assistant", "b")
    short = Conversation((ask, tell), 1)
    longer = Conversation((Turn("user", " a\n"), tell, Turn("user", "c"), tell), 2)
    with_system = Conversation((Turn("system", "s"), ask, tell), 3)

    both = split([short, longer, with_system], ratio=0.5, seed=0)

    assert {both.train, both.validation} == {(short, longer), (with_system,)}


def test_one_prompt_alone_cannot_be_split() -> None:
    with pytest.raises(CannotSplit, match="has 1"):
        split(rows("a", "a", "a"), ratio=0.5, seed=0)
