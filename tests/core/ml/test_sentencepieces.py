"""The converted tokenizer against SentencePiece itself."""

import random

import pytest
from sentencepiece import sentencepiece_model_pb2

from core.domain.checkpoints import DamagedCheckpoint, UnsupportedCheckpoint
from core.ml import probes
from core.ml.sentencepieces import NORMAL, SentencePieces
from tests.support import bluelm


@pytest.mark.parametrize("remove_extra_whitespaces", [False, True])
def test_ids_and_text_are_sentencepieces(remove_extra_whitespaces: bool) -> None:
    model = SentencePieces(bluelm.pieces(remove_extra_whitespaces=remove_extra_whitespaces))
    texts = probes.texts(model.pieces(NORMAL), count=2000, seed=3)
    assert model.obstacles() == []
    assert model.difference(model.fast(bluelm.MARKERS), texts) is None


@pytest.mark.parametrize("normalization", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
@pytest.mark.parametrize("text", ["か\u3099", "\u1100\u1161\u11a8", "７\u0651"])
def test_a_character_map_is_an_obstacle_since_letters_with_marks_are_read_otherwise(
    normalization: str, text: str
) -> None:
    model = SentencePieces(bluelm.pieces(normalization=normalization))
    assert model.obstacles() == ["its character map"]
    assert model.difference(model.fast(()), [text]) is not None


def test_equal_scores_are_an_obstacle_since_ties_are_broken_otherwise() -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString(repetitive_pieces())
    for piece in proto.pieces:
        piece.score = -float(-piece.score // 2)
    model = SentencePieces(proto.SerializeToString())
    assert model.obstacles() == ["pieces of equal score"]
    assert model.difference(model.fast(()), ["bcbbbbcb"]) is not None


def test_texts_of_few_letters_merge_as_sentencepiece_merges_them() -> None:
    model = SentencePieces(repetitive_pieces())
    rng = random.Random(5)
    texts = ["".join(rng.choices("abc ", k=rng.randint(1, 40))) for _ in range(4000)]
    assert model.difference(model.fast(()), texts) is None


def repetitive_pieces() -> bytes:
    """Train on three letters in random order, so that almost every merge has rivals."""
    rng = random.Random(3)
    lines = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 40))) for _ in range(2000)]
    return bluelm.trained(lines, vocab_size=600)


def test_the_check_sees_a_tokenizer_that_merges_otherwise() -> None:
    model, other = SentencePieces(bluelm.pieces()), SentencePieces(bluelm.pieces(vocab_size=560))
    found = model.difference(other.fast(()), probes.texts(model.pieces(NORMAL), count=50))
    assert found is not None
    assert found.expected_ids != found.found_ids


def test_markers_are_single_ids_that_follow_the_pieces() -> None:
    model = SentencePieces(bluelm.pieces())
    fast = model.fast(bluelm.MARKERS)
    assert [fast.token_to_id(marker) for marker in bluelm.MARKERS] == [len(model) + place for place in range(4)]
    ids = fast.encode("[|Human|]:你好[|AI|]:").ids
    assert ids == [1, len(model), *model.processor.encode("你好"), len(model) + 1]


def change(serialized: bytes, **fields: dict[str, object]) -> bytes:
    proto = sentencepiece_model_pb2.ModelProto.FromString(serialized)
    for section, values in fields.items():
        for name, value in values.items():
            setattr(getattr(proto, section), name, value)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trainer_spec": {"model_type": 1}}, "not of type BPE"),
        ({"trainer_spec": {"byte_fallback": False}}, "no byte fallback"),
        ({"normalizer_spec": {"add_dummy_prefix": False}}, "add_dummy_prefix"),
        ({"trainer_spec": {"treat_whitespace_as_suffix": True}}, "suffixes"),
    ],
)
def test_a_model_of_another_kind_is_refused(fields: dict[str, dict[str, object]], reason: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=reason):
        SentencePieces(change(bluelm.pieces(), **fields))


@pytest.mark.parametrize("serialized", [b"", b"no model", bluelm.pieces()[:1000]])
def test_a_torn_model_is_refused(serialized: bytes) -> None:
    with pytest.raises((DamagedCheckpoint, UnsupportedCheckpoint)):
        SentencePieces(serialized)
