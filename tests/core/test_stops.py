"""Stop strings in text that comes in pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.stops import StopFinder


def _passed(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    text = "".join(finder.feed(piece) for piece in pieces)
    return text + ("" if finder.found else finder.finish()), finder.found


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["你好", "。再见"], ["。"], "你好"),
        (["ab", "c"], ["bc"], "a"),
        (["aab"], ["ab"], "a"),
        (["aa", "b"], ["aab"], ""),
        (["one two"], ["xx"], "one two"),
        (["half of a st"], ["stop"], "half of a st"),
        (["x", "END", "y"], ["END", "x"], ""),
        (["text"], [], "text"),
    ],
)
def test_text_goes_on_up_to_the_first_stop_string(pieces: list[str], stops: list[str], expected: str) -> None:
    assert _passed(pieces, stops)[0] == expected


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_the_same_text_passes_however_it_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    passed, found = _passed(pieces, stops)
    places = [text.find(stop) for stop in stops if stop in text]
    if found:
        # Pieces may end one stop string before another that began earlier is complete; both are stops in the text.
        assert text.startswith(passed)
        assert any(text.startswith(stop, len(passed)) for stop in stops)
    else:
        assert not places
        assert passed == text


def test_what_may_become_a_stop_string_is_held_back() -> None:
    finder = StopFinder(["</end>"])
    assert finder.feed("hello</en") == "hello"
    assert finder.feed("ough") == "</enough"
    assert not finder.found
