import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.domain import formats, inspections
from core.domain.datasets import Conversation, InvalidDataset, Turn
from core.domain.rows import CONTROL
from tests.support import writers
from tests.support.streams import cut

# Quotation marks, backslashes, brackets, delimiters and line feeds are what splitters trip over, so they come often; so
# do characters of every plane, and markers that are only text.
ODD = '"\\{}[],:;\n\r\t \u2028\u202e\x1b你😀\U0002a6d6\U00030000\U000e0001\U000f0000\U0010ffff'
texts = st.lists(
    st.one_of(
        st.sampled_from(ODD),
        st.characters(codec="utf-8"),
        st.sampled_from(["[|AI|]:", "</s>", '""', '",', "\r\n", "\\u0000"]),
    ),
    max_size=20,
).map("".join)
said = texts.map(lambda text: text.replace("\0", "")).filter(lambda text: text.strip() != "")
plain = said.map(str.strip).filter(lambda text: not CONTROL.search(text) and text != "")
pairs = st.lists(st.tuples(said, said, st.just(1.0)), max_size=2)
weighted = st.lists(st.tuples(said, said, st.sampled_from([0.0, 1.0])), max_size=3)
unlearnt = st.lists(st.tuples(said, said, st.just(0.0)), max_size=2)


def conversation(
    system: str | None, history: Sequence[tuple[str, str, float]], prompt: str, answer: str
) -> tuple[Turn, ...]:
    head = (Turn("system", system),) if system else ()
    past = (turn for ask, tell, weight in history for turn in (Turn("user", ask), Turn("assistant", tell, weight)))
    return (*head, *past, Turn("user", prompt), Turn("assistant", answer))


systems = st.none() | said
marked = st.lists(st.tuples(plain, plain, st.just(1.0)), max_size=3)
CONVERSATIONS: Mapping[str, st.SearchStrategy[tuple[Turn, ...]]] = {
    "alpaca": st.builds(conversation, systems, pairs, said, said),
    "bluelm": st.builds(conversation, st.none(), marked, plain, plain),
    "openai": st.builds(conversation, systems, weighted, said, said),
    "openai, in parts": st.builds(conversation, systems, weighted, said, said),
    "sharegpt": st.builds(conversation, systems, weighted, said, said),
    "prompt_completion": st.builds(conversation, systems, st.just([]), said, said),
    "prompt_completion, of lists": st.builds(conversation, systems, unlearnt, said, said),
}
"""What each format can carry: not all have weights, or system texts."""


REFUSED = [("prompt_completion, of lists", container) for container in ("csv", "tsv")]
"""A table's cell called prompt is text, so lists there are refused rather than learnt as texts."""
CARRIED = [pair for pair in itertools.product(CONVERSATIONS, writers.CONTAINERS) if pair not in REFUSED]


@pytest.mark.parametrize("compression", writers.COMPRESSIONS)
@pytest.mark.parametrize(("kind", "container"), CARRIED)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_written_is_read_back_equal(
    kind: str, container: str, compression: str | None, data: st.DataObject
) -> None:
    written = data.draw(st.lists(CONVERSATIONS[kind], min_size=1, max_size=5))
    dice = random.Random(data.draw(st.integers(0, 2**16)))
    rows = [writers.ROWS[kind](turns, dice) for turns in written]
    content = writers.COMPRESSIONS[compression](writers.CONTAINERS[container](rows, dice), dice)
    size = data.draw(st.integers(1, len(content)))

    if container == "tsv" and len({name for row in rows for name in row}) == 1:
        container = "csv"  # without a second column nothing tells the two apart

    read = list(formats.parse(cut(content, size)))
    found = inspections.inspect(cut(content, size))

    assert [one.turns for one in read] == written
    assert found.is_acceptable
    summary = found.summary
    assert (summary.format, summary.container, summary.compression) == (kind.partition(",")[0], container, compression)
    assert (summary.rows, summary.turns) == (len(written), sum(map(len, written)))


@pytest.mark.parametrize(("kind", "container"), REFUSED)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_lists_that_a_table_would_make_texts_of_are_refused(kind: str, container: str, data: st.DataObject) -> None:
    written = data.draw(st.lists(CONVERSATIONS[kind], min_size=1, max_size=3))
    dice = random.Random(data.draw(st.integers(0, 2**16)))

    found = inspections.inspect([writers.CONTAINERS[container]([writers.ROWS[kind](t, dice) for t in written], dice)])

    assert {finding.code for finding in found.findings if finding.severity == "error"} == {"list_in_text"}
    assert found.summary.errors == len(written)


CELLS = (
    '"',
    "[",
    "[1, 2]",
    '["a", "b"]',
    '[{"a": "b"}]',
    "[]",
    "{}",
    "null",
    "1",
    '[{"role": "user", "content": "c"}]',
)


@pytest.mark.parametrize("container", ["csv", "tsv"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_text_that_looks_like_json_stays_text(cell: str, container: str) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": cell, "completion": "x"},
        {"prompt": "x", "completion": cell},
        {"prompt": cell, "completion": "[]"},
    ]

    read = list(formats.parse([writers.CONTAINERS[container](rows, random.Random(0))]))

    assert [[turn.content for turn in one.turns] for one in read] == [[*row.values()] for row in rows]


@pytest.mark.parametrize("compression", writers.COMPRESSIONS)
@pytest.mark.parametrize("container", writers.CONTAINERS)
def test_chunks_of_any_size_give_the_same_rows(container: str, compression: str | None) -> None:
    rows: list[dict[str, object]] = [
        {"instruction": '说"你好"\\', "input": "{[", "output": "}]\n,"},
        {"instruction": "a", "input": "b", "output": "c", "history": [["x", "[y]"], ['\\"', "z"]]},
    ]
    dice = random.Random(0)
    content = writers.COMPRESSIONS[compression](writers.CONTAINERS[container](rows, dice), dice)
    whole = list(formats.parse([content]))

    assert len(whole) == 2
    for size in range(1, len(content) + 1):
        assert list(formats.parse(cut(content, size))) == whole


def test_the_prompt_is_instruction_and_input_put_together_as_the_tutorial_does() -> None:
    [row] = formats.parse([b'{"instruction": "tell: ", "input": " me", "output": " yes "}'])

    assert row == Conversation((Turn("user", "tell:  me"), Turn("assistant", " yes ")), 1)


def test_lines_are_counted_in_the_users_file() -> None:
    row = b'{"instruction": "a", "input": "", "output": "b"}'

    assert [one.line for one in formats.parse([b"\n\n", row, b"\n \r\n", row, b"\n"])] == [3, 5]
    assert [one.line for one in formats.parse([b"\n[\n", row, b"\n,\n\n", row, b"\n]"])] == [3, 6]


def test_input_system_and_history_may_be_missing() -> None:
    [row] = formats.parse([b'{"output": "b", "instruction": "a", "system": " ", "history": []}'])

    assert row.turns == (Turn("user", "a"), Turn("assistant", "b"))


@pytest.mark.parametrize(
    ("inputs", "turns"),
    [
        ("[|Human|]:a[|AI|]:", [("user", "a")]),
        ("<s>[|Human|]: a \n[|AI|]:", [("user", "a")]),
        ("[|Human|]:a", [("user", "a")]),
        ("just a question", [("user", "just a question")]),
        ("[|Human|]:a[|AI|]:b</s>[|Human|]:c[|AI|]:", [("user", "a"), ("assistant", "b"), ("user", "c")]),
        ("[|Human|]:a\n[|AI|]:b\n[|Human|]:c", [("user", "a"), ("assistant", "b"), ("user", "c")]),
    ],
)
def test_role_markers_are_taken_out_once(inputs: str, turns: list[tuple[str, str]]) -> None:
    [row] = formats.parse([json.dumps({"inputs": inputs, "targets": "t"}).encode()])

    assert [(turn.role, turn.content) for turn in row.turns] == [*turns, ("assistant", "t")]


def test_a_fault_ends_parsing_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')

    rows = formats.parse_file(path)

    assert next(rows).line == 1
    with pytest.raises(InvalidDataset, match="Line 2: The row has no output") as caught:
        next(rows)
    assert caught.value.findings[0].code == "missing_field"
