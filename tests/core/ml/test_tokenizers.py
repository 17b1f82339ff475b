"""The tokenizer of an import against SentencePiece itself, both ways, on hostile strings.

Everything goes the product's way: a folder is imported, `Renderer` reads it, segments are encoded, streams decoded.
"""

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import sentencepiece
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from core.ml.convert import convert
from core.ml.records import Imported
from core.text import markers
from core.text.chat import Renderer
from tests.support import bluelm, nano_model, texts
from tests.support.bluelm import chat_of

SEED: Final = 20240131
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "identity": {},
    "trimmed": {"remove_extra_whitespaces": True},
    "small, digits apart": {"vocab_size": 420, "split_digits": True},
    "long pieces": {"vocab_size": 800, "split_by_whitespace": False, "max_sentencepiece_length": 24},
    "runs of spaces": {"vocab_size": 700, "split_by_whitespace": False, "allow_whitespace_only_pieces": True},
    "nmt_nfkc": {"normalization": "nmt_nfkc", "remove_extra_whitespaces": True},
    "nfkc": {"normalization": "nfkc"},
    "user defined": {"user_defined_symbols": "你是,▁ab▁"},
}
CONVERTED: Final = ("nano", "identity", "trimmed", "small, digits apart", "long pieces", "runs of spaces")
KEPT: Final = ("nmt_nfkc", "nfkc", "user defined")
"""Models that `tokenizers` can't reproduce, whose imports keep SentencePiece for text."""

SHARES: Final = [
    pytest.param(2_500, id="some"),
    pytest.param(20_000, id="all", marks=pytest.mark.slow),
]


@dataclass(frozen=True)
class Case:
    """An import, its renderer, and SentencePiece on the file that it was made from."""

    imported: Imported
    renderer: Renderer
    processor: sentencepiece.SentencePieceProcessor

    @functools.cached_property
    def theirs(self) -> PreTrainedTokenizerFast:
        return AutoTokenizer.from_pretrained(self.imported.path)

    def strings(self, count: int) -> list[str]:
        pieces = [self.processor.id_to_piece(id_) for id_ in range(260, self.processor.get_piece_size())]
        return list(texts.hostile(pieces, count=count, seed=SEED))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Case]:
    """Every model, imported."""
    folder = tmp_path_factory.mktemp("tokenizers")
    sources = {"nano": nano_model.SOURCE}
    for name, settings in MODELS.items():
        sources[name] = bluelm.write(folder / f"{name}-source", model=bluelm.pieces(**settings))
    return {name: case(source, folder / name) for name, source in sources.items()}


def case(source: Path, folder: Path) -> Case:
    imported = convert(source, folder, name="tiny", progress=lambda done, total: None)
    return Case(
        imported=imported,
        renderer=Renderer.load(folder),
        processor=bluelm.processor((source / "tokenizer.model").read_bytes()),
    )


@pytest.mark.parametrize("count", SHARES)
@pytest.mark.parametrize("name", [*CONVERTED, *KEPT])
def test_segments_have_sentencepieces_ids(cases: Mapping[str, Case], name: str, count: int) -> None:
    one = cases[name]
    strings = one.strings(count)
    expected = one.processor.encode(strings)
    encode = chat_of(one.renderer).segments.encode
    wrong = [text for text, ids in zip(strings, expected, strict=True) if encode(text) != ids]
    assert not wrong, f"seed {SEED}: {len(wrong)} differ, the shortest {min(wrong, key=len)!r}"


@pytest.mark.parametrize("name", [*CONVERTED, *KEPT])
def test_no_text_has_fewer_ids_than_its_length_allows(cases: Mapping[str, Case], name: str) -> None:
    one = cases[name]
    segments = chat_of(one.renderer).segments
    extreme = [
        "x" * 500,
        " " * 500,
        "▁" * 500,
        "a" + " " * 500 + "b",
        "　" * 500,
        "ﷺ" * 100,
        "\u00ad" * 500,
        "\n" * 500,
    ]
    for text in [*one.strings(1000), *extreme, *(text * 20 for text in one.strings(300))]:
        assert segments.fewest(text) <= len(segments.encode(text)), f"seed {SEED}: {text!r}"
    assert segments.fewest("x" * 500) >= 500 // 24


@pytest.mark.parametrize("count", SHARES)
@pytest.mark.parametrize("name", [*CONVERTED, *KEPT])
def test_every_split_of_the_ids_streams_sentencepieces_text(cases: Mapping[str, Case], name: str, count: int) -> None:
    one = cases[name]
    strings = one.strings(count)
    encoded = one.processor.encode(strings)
    rng = random.Random(SEED)
    for text, ids, shown in zip(strings, encoded, one.processor.decode(encoded), strict=True):
        if name not in {"trimmed", *KEPT}:
            assert shown == text.replace("▁", " ")
        cuts = [[cut] for cut in range(len(ids) + 1)]
        cuts += [list(range(len(ids))), sorted(rng.choices(range(len(ids) + 1), k=4))]
        for cut in cuts:
            parts = streamed(one.renderer, ids, cut)
            assert "".join(parts) == shown, f"seed {SEED}: {text!r} cut at {cut}"
            assert "\ufffd" in shown or not any("\ufffd" in part for part in parts)
            assert parts[-1] == "", "nothing of a whole text may be held back to the end"


def streamed(renderer: Renderer, ids: Sequence[int], cuts: Sequence[int]) -> list[str]:
    decoder = renderer.decoder()
    parts = [decoder.feed(ids[start:end]) for start, end in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    return [*parts, decoder.finish()]


@pytest.mark.parametrize("count", SHARES)
@pytest.mark.parametrize("name", CONVERTED)
def test_transformers_loads_the_same_tokenizer(cases: Mapping[str, Case], name: str, count: int) -> None:
    one = cases[name]
    assert isinstance(one.theirs, PreTrainedTokenizerFast)
    assert not isinstance(one.theirs, LlamaTokenizer)
    strings = one.strings(count)
    expected = one.processor.encode(strings)
    found = one.theirs(strings, add_special_tokens=False, split_special_tokens=True).input_ids
    wrong = [text for text, ids, others in zip(strings, expected, found, strict=True) if ids != others]
    assert not wrong, f"seed {SEED}: {len(wrong)} differ, the shortest {min(wrong, key=len)!r}"
    assert one.theirs.batch_decode(found) == one.processor.decode(expected)


@pytest.mark.parametrize("count", SHARES)
@pytest.mark.parametrize("name", CONVERTED)
def test_markers_are_single_tokens_and_each_segment_starts_with_its_own_space(
    cases: Mapping[str, Case], name: str, count: int
) -> None:
    one = cases[name]
    ids_of = {marker: one.processor.get_piece_size() + place for place, marker in enumerate(bluelm.MARKERS)}
    ids_of |= {"<s>": 1, "</s>": 2, "<pad>": 3, "<unk>": 0}
    strings = [text for text in one.strings(count) if not any(special in text for special in ids_of)]
    segments = dict(zip(strings, one.processor.encode(strings), strict=True))
    rng = random.Random(SEED)
    for _ in range(count // 4):
        rendered, expected = "", []
        for text in rng.choices(strings, k=rng.randint(1, 4)):
            marker = rng.choice(list(ids_of))
            rendered += marker + text
            expected += [ids_of[marker], *segments[text]]
        assert one.theirs(rendered, add_special_tokens=False).input_ids == expected, f"seed {SEED}: {rendered!r}"
        assert one.theirs(rendered).input_ids == [1, *expected]


@pytest.mark.parametrize("name", CONVERTED)
def test_what_converts_exactly_needs_no_sentencepiece_to_run(cases: Mapping[str, Case], name: str) -> None:
    assert cases[name].imported.record.segment_encoder == "tokenizers"
    assert not (cases[name].imported.path / "segments.model").exists()


@pytest.mark.parametrize(
    ("name", "reason"), [("nmt_nfkc", "its character map"), ("nfkc", "its character map"), ("user defined", "你是")]
)
def test_what_does_not_convert_exactly_keeps_sentencepiece_and_says_why(
    cases: Mapping[str, Case], name: str, reason: str
) -> None:
    record = cases[name].imported.record
    assert record.segment_encoder == "sentencepiece"
    assert any(reason in note and "SentencePiece stays" in note for note in record.notes)


def test_texts_in_the_importers_own_words(cases: Mapping[str, Case]) -> None:
    """Each kind that the format speaks of, once by hand: a generator may forget one."""
    one = cases["nano"]
    encode, pieces = chat_of(one.renderer).segments.encode, one.processor.id_to_piece
    assert encode("") == []
    assert "".join(map(pieces, encode("你"))) == "▁你"
    assert [pieces(id_) for id_ in encode("😀")[1:]] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert [pieces(id_) for id_ in encode("龘")[1:]] == ["<0xE9>", "<0xBE>", "<0x98>"]
    assert [pieces(id_) for id_ in encode("2024")[1:]] == ["2", "0", "2", "4"]
    assert one.renderer.decode(encode("１２，ＡＢ（）")) == "１２，ＡＢ（）"
    assert one.renderer.decode(encode("  a   b \n\n c\t")) == "  a   b \n\n c\t"
    assert one.renderer.decode(encode("a\x00b")) == "a\x00b"
    assert not {0, 1, 2, 3, *range(len(one.processor), len(one.processor) + 4)} & set(
        encode("".join(markers.SPECIALS) + "[|Human|")
    )
