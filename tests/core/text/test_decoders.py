"""Streams: whole characters only, the same text however the ids are split."""

import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from core.ml import probes
from core.text.chat import Renderer
from tests.core.text.conftest import CHATML, foreign
from tests.support import bluelm


def test_a_character_of_several_byte_tokens_comes_when_it_is_whole(renderer: Renderer) -> None:
    ids = bluelm.chat_of(renderer).segments.encode("😀")
    decoder = renderer.decoder()
    assert [decoder.feed([id_]) for id_ in ids] == ["", "", "", "", "😀"]


def test_the_space_in_front_of_an_answer_is_nothing_and_later_ones_stay(renderer: Renderer) -> None:
    ids = bluelm.chat_of(renderer).segments.encode(" a b")
    assert renderer.decode(ids) == " a b"
    decoder = renderer.decoder()
    assert "".join(decoder.feed([id_]) for id_ in ids) == " a b"


def test_control_tokens_and_rows_without_a_token_are_nothing(renderer: Renderer) -> None:
    ids = bluelm.chat_of(renderer).segments.encode("你好")
    assert renderer.decode([1, *ids, 2, 3, bluelm.chat_of(renderer).marks.ai, 10**6]) == "你好"


@example([4 + ord(" ")], random.Random(0))
@example([4 + ord(" "), 4 + ord(" "), 300], random.Random(0))
@given(st.lists(st.integers(0, 700), max_size=60), st.randoms(use_true_random=False))
def test_any_ids_decode_alike_however_they_come_and_as_sentencepiece_does(
    renderer: Renderer, ids: list[int], rng: random.Random
) -> None:
    processor = bluelm.processor(bluelm.pieces())
    ids = [id_ for id_ in ids if id_ < processor.get_piece_size() and id_ > 3]
    decoder, parts, place = renderer.decoder(), [], 0
    while place < len(ids):
        step = rng.randint(1, 4)
        parts.append(decoder.feed(ids[place : place + step]))
        place += step
    text = "".join(parts) + decoder.finish()
    assert text == renderer.decode(ids) == processor.decode(ids)


def test_whole_texts_decode_as_tokenizers_does(base: Path, renderer: Renderer) -> None:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    for text in probes.WRITTEN:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert renderer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign(tmp_path_factory.mktemp("decoders") / "foreign", CHATML)


@given(st.text(max_size=40))
def test_a_byte_level_tokenizer_streams_as_well(byte_level: Path, text: str) -> None:
    renderer = Renderer.load(byte_level)
    ids = Tokenizer.from_file(str(byte_level / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    decoder = renderer.decoder()
    parts = [decoder.feed([id_]) for id_ in ids]
    assert "".join(parts) == text
    assert decoder.finish() == ""
