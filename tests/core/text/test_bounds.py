"""A lower bound on tokens: never above what encoding gives, of use for long texts, silent where it can't know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.domain.generation import InvalidMessages
from core.text import bounds
from core.text.bounds import UNKNOWN, Bound
from core.text.chat import Renderer
from tests.core.text.conftest import CHATML, foreign
from tests.support import bluelm
from tests.support.bluelm import turn


@pytest.fixture
def tokenizer_json(base: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    return found


def test_a_long_prompt_has_at_least_its_characters_over_the_longest_piece(base: Path, renderer: Renderer) -> None:
    longest = bounds.bound(json.loads((base / "tokenizer.json").read_text())).longest
    processor = bluelm.processor(bluelm.pieces())
    assert longest == max(len(processor.id_to_piece(id_)) for id_ in range(processor.get_piece_size()))
    asked = [turn("user", "好" * 300), turn("assistant", " a" * 200), turn("user", "x" * 500)]
    fewest = renderer.fewest(asked, system="设定")
    assert fewest >= (300 + 400 + 500) // longest
    assert fewest <= len(renderer.prompt(asked, system="设定"))
    assert renderer.fewest([turn("user", "好")]) == 0


def test_spaces_that_may_vanish_do_not_count(tokenizer_json: dict[str, Any]) -> None:
    kept = bounds.bound(tokenizer_json)
    trimming = [{"type": "Replace", "pattern": {"Regex": p}, "content": ""} for p in bounds.TRIMMING]
    tokenizer_json["normalizer"]["normalizers"] = trimming + tokenizer_json["normalizer"]["normalizers"]
    trimmed = bounds.bound(tokenizer_json)
    text = "ab" + " " * 1000 + "▁" * 98 + "cd"
    assert kept.fewest(text) == 1102 // kept.longest + 1
    assert trimmed.fewest(text) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(pre_tokenizer={"type": "Whitespace"}),
        lambda it: it["normalizer"]["normalizers"].append({"type": "NFKC"}),
        lambda it: it["normalizer"]["normalizers"].append(
            {"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""}
        ),
        lambda it: it["normalizer"]["normalizers"].append(
            {"type": "Replace", "pattern": {"String": "x"}, "content": ""}
        ),
        lambda it: it["model"].update(byte_fallback=False),
        lambda it: it["model"]["vocab"].pop("<0x41>"),
        lambda it: it["model"].update(type="Unigram"),
        lambda it: it["added_tokens"][0].update(lstrip=True),
    ],
)
def test_nothing_is_claimed_where_text_could_vanish(
    tokenizer_json: dict[str, Any], change: Callable[[dict[str, Any]], object]
) -> None:
    assert bounds.bound(tokenizer_json) != UNKNOWN
    change(tokenizer_json)
    assert bounds.bound(tokenizer_json) == UNKNOWN
    assert UNKNOWN.fewest("x" * 10**6) == 0


def test_a_foreign_template_is_bounded_by_its_tokenizer_too(base: Path, tmp_path: Path) -> None:
    copy = foreign(tmp_path / "foreign", CHATML)
    asked = [turn("user", "x" * 1000)]
    assert Renderer.load(copy).fewest(asked) == 0
    (copy / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    renderer = Renderer.load(copy)
    assert 1000 // 16 < renderer.fewest(asked) <= len(renderer.prompt(asked))


def test_roles_are_checked_before_lengths(renderer: Renderer) -> None:
    with pytest.raises(InvalidMessages):
        renderer.fewest([turn("assistant", "x" * 1000)])


def test_a_part_of_a_token_is_a_whole_one() -> None:
    assert [Bound(longest=4, counts_spaces=True).fewest("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
