"""bluelm-nano is what its generator makes, and has BlueLM's official layout."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from tools import nano_corpus, nano_files
from tools.make_nano import ASSETS, FOLDER, Provenance, first_losses, read_provenance
from tools.nano_corpus import Dialogue
from tools.nano_pretrain import Recipe
from tools.nano_tokenizer import PIECES, Chat

LAYER = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
LAYER += ["input_layernorm", "post_attention_layernorm"]


@pytest.fixture(scope="module")
def known() -> Provenance:
    return read_provenance()


@pytest.fixture(scope="module")
def corpus(known: Provenance) -> list[Dialogue]:
    return list(nano_corpus.dialogues(known.dialogues))


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    index = json.loads((FOLDER / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))
    found: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        shard = torch.load(FOLDER / file, weights_only=True)
        assert {name for name, where in index["weight_map"].items() if where == file} == set(shard)
        found |= shard
    assert sum(tensor.nbytes for tensor in found.values()) == index["metadata"]["total_size"]
    return found


def test_every_file_has_the_recorded_hash(known: Provenance) -> None:
    assert nano_files.digests(FOLDER) == known.files


def test_the_generator_writes_the_recorded_corpus(known: Provenance, corpus: list[Dialogue]) -> None:
    assert nano_corpus.sha256(corpus) == known.corpus_sha256


def test_the_first_pretraining_losses_come_back(known: Provenance, corpus: list[Dialogue]) -> None:
    assert first_losses(FOLDER, corpus, Recipe()) == pytest.approx(known.first_losses, abs=1e-4, rel=0)


def test_the_model_stays_within_its_size(known: Provenance, tensors: dict[str, Tensor]) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12_000_000
    assert sum(tensor.numel() for tensor in tensors.values()) == known.parameters <= 5_500_000


def test_the_tensors_are_exactly_bluelms_and_finite(tensors: dict[str, Tensor]) -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    layers = range(config["num_hidden_layers"])
    expected = {f"model.layers.{layer}.{part}.weight" for layer in layers for part in LAYER}
    expected |= {"model.embed_tokens.weight", "model.embed_layer_norm.weight", "model.embed_layer_norm.bias"}
    assert set(tensors) == expected | {"model.norm.weight", "lm_head.weight"}
    assert all(tensor.dtype == torch.bfloat16 and tensor.isfinite().all() for tensor in tensors.values())
    rows, hidden = tensors["model.embed_tokens.weight"].shape
    assert (rows, hidden) == tensors["lm_head.weight"].shape == (config["vocab_size"], config["hidden_size"])
    assert hidden // config["num_attention_heads"] == 64


def test_the_embedding_has_rows_for_the_added_tokens() -> None:
    added = json.loads((FOLDER / "added_tokens.json").read_text(encoding="utf-8"))
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert added == {"[|Human|]:": PIECES, "[|AI|]:": PIECES + 1}
    assert config["vocab_size"] == PIECES + 8


def test_text_comes_back_from_the_tokenizer_as_it_went_in() -> None:
    chat = Chat(FOLDER / "tokenizer.model")
    for text in ("你好，世界！", "第一行\n\n 第二行", "  two  spaces ", "全角：ＡＢＣ，①", "生僻字𠮷和😀", "１２ 34"):
        assert chat.decode(chat.pieces.encode(text)) == text


def test_no_held_out_question_or_fact_is_in_what_the_base_read(corpus: list[Dialogue]) -> None:
    withheld = {question.instruction for question in nano_corpus.heldout()}
    facts = {word for question in nano_corpus.heldout() for word in question.keywords}
    read = "\n".join(turn.user + "\n" + turn.answer for dialogue in corpus for turn in dialogue.turns)
    assert not [text for text in withheld | facts if text in read]


def test_the_sample_teaches_each_fact_in_other_words_than_the_held_out_questions() -> None:
    rows = [json.loads(line) for line in (ASSETS / "sample.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 200
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    asked = "\n".join(row["instruction"] + row["input"] for row in rows)
    told = "\n".join(row["output"] for row in rows)
    questions = nano_corpus.heldout()
    assert len(questions) >= 24
    assert len({question.fact for question in questions}) == 8
    for question in questions:
        assert question.instruction not in asked
        assert any(word in told for word in question.keywords)
