"""What the start of a large file says of all of it."""

import pytest

from core.domain.datasets import Conversation, Turn
from core.text import shares
from core.text.examples import Example
from core.text.shares import WHOLE, Size


def _conversation(line: int, length: int = 4) -> Conversation:
    return Conversation((Turn("user", "x" * (length // 2)), Turn("assistant", "y" * (length - length // 2))), line)


def _example(line: int, length: int) -> Example:
    return Example(input_ids=[1] * length, labels=[1] * length, line=line)


def test_a_small_file_is_read_whole() -> None:
    part = shares.read(iter([_conversation(1), _conversation(2)]), max_rows=2)
    assert not part.is_cut
    assert part.size == Size(rows=2, characters=8)
    assert shares.share(part, Size(rows=2, characters=8), [_example(1, 3)]) is WHOLE


@pytest.mark.parametrize("limits", [{"max_rows": 5}, {"max_characters": 20}])
def test_a_large_file_is_read_no_further_than_is_needed(limits: dict[str, int]) -> None:
    source = iter([_conversation(line) for line in range(100)])
    part = shares.read(source, **limits)
    assert part.is_cut
    assert len(part.conversations) == 5
    assert len(list(source)) == 94


def test_an_even_file_is_scaled_without_a_range() -> None:
    part = shares.read((_conversation(line) for line in range(100)), max_rows=20)
    found = shares.share(part, Size(rows=100, characters=400), [_example(line, 10) for line in range(20)])
    assert (found.rows, found.tokens, found.low, found.high) == (5, 5, 5, 5)


def test_rows_that_differ_give_a_range_around_the_estimate() -> None:
    part = shares.read((_conversation(line) for line in range(100)), max_rows=20)
    # The rest of the file has longer rows: as many characters again as rows alone would say.
    lengths = [5 + line for line in range(20)]
    found = shares.share(
        part, Size(rows=100, characters=800), [_example(n, length) for n, length in enumerate(lengths)]
    )
    assert (found.rows, found.tokens) == (5, 10)
    assert found.low < 5 < 10 < found.high
