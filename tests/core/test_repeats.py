from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import repeats
from core.domain.datasets import MAX_LINES
from core.domain.repeats import Repeats

ROWS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=80)


@given(ROWS, st.sampled_from((3, 10, 500_000)))
def test_counting_by_slices_is_counting_by_hand(rows: list[tuple[int, int]], slice_rows: int) -> None:
    # Hashes as spread as real ones: the slices go by their low bytes.
    spread = [(hash(f"p{prompt}"), hash(f"a{answer}")) for prompt, answer in rows]
    compared = Repeats()
    compared.add(range(1, len(rows) + 1), (prompt for prompt, _ in spread), (answer for _, answer in spread))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "SLICE_ROWS", slice_rows)
        patch.setattr(repeats, "MANY_PROMPTS", 3)
        found = compared.compare()

    answers_of, prompts_of = defaultdict(set), defaultdict(set)
    for prompt, answer in spread:
        answers_of[prompt].add(answer)
        prompts_of[answer].add(prompt)
    duplicates = [index for index, row in enumerate(spread) if row in spread[:index]]
    contested = {prompt for prompt, answers in answers_of.items() if len(answers) > 1}
    shared = {answer for answer, prompts in prompts_of.items() if len(prompts) >= 3}
    assert (found.compared, found.prompts, found.answers) == (len(rows), len(answers_of), len(prompts_of))
    assert found.duplicates.rows == len(duplicates)
    assert found.duplicates.first == tuple(duplicates[:MAX_LINES])
    assert found.contested_prompts == len(contested)
    assert found.contested.rows == sum(prompt in contested for prompt, _ in spread)
    assert found.shared_answers == len(shared)
    assert found.shared.rows == sum(answer in shared for _, answer in spread)
    assert found.most_prompts == max((len(prompts_of[answer]) for answer in shared), default=0)
    if contested:
        first = next(index for index, (prompt, _) in enumerate(spread) if prompt in contested)
        assert found.contested.first[0] == first
        assert len({spread[index][0] for index in found.contested.first}) == 1
    if shared:
        assert len({spread[index][1] for index in found.shared.first}) == 1
