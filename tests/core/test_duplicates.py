from hypothesis import given
from hypothesis import strategies as st

from core.domain import duplicates, inspections
from core.domain.datasets import Conversation, Turn

TEXT = st.sampled_from(("a", "b", "A", "a "))
TURNS = st.lists(st.tuples(TEXT, TEXT, st.sampled_from((0.0, 1.0))), min_size=1, max_size=2)


@given(st.lists(TURNS, max_size=30))
def test_the_first_of_equal_rows_stays_and_the_order_with_it(drawn: list[list[tuple[str, str, float]]]) -> None:
    rows = [
        Conversation(
            tuple(turn for ask, tell, weight in pairs for turn in (Turn("user", ask), Turn("assistant", tell, weight))),
            line,
        )
        for line, pairs in enumerate(drawn, 1)
    ]

    unique = duplicates.without(rows)

    assert [row.turns for row in unique.conversations] == list(dict.fromkeys(row.turns for row in rows))
    assert sorted([*(row.line for row in unique.conversations), *unique.left_out_lines]) == [row.line for row in rows]
    assert [row.line for row in unique.conversations] == sorted(row.line for row in unique.conversations)


def test_as_many_are_left_out_as_the_summary_counts() -> None:
    content = b'{"instruction": "a", "output": "b"}\n' * 3 + b'{"inputs": "a", "targets": "b"}\n'
    rows = [Conversation((Turn("user", "a"), Turn("assistant", "b")), line) for line in range(1, 5)]

    assert inspections.inspect([content]).summary.duplicates == len(duplicates.without(rows).left_out_lines) == 3
