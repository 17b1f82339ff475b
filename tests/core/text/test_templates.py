"""Foreign Llamas: their own template, their own end token, and no way to smuggle one in."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from core.domain.checkpoints import NoChatFormat, UnsupportedCheckpoint
from core.domain.datasets import Conversation
from core.domain.generation import InvalidMessages
from core.text.chat import Renderer
from tests.core.text.conftest import CHATML, foreign
from tests.support import bluelm
from tests.support.bluelm import turn


@pytest.fixture
def chatml(tmp_path: Path) -> Path:
    return foreign(tmp_path / "foreign", CHATML)


def test_a_prompt_is_the_rendered_template(chatml: Path) -> None:
    renderer = Renderer.load(chatml)
    tokenizer = Tokenizer.from_file(str(chatml / "tokenizer.json"))
    rendered = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n 你好 <|im_end|>\n<|im_start|>assistant\n"
    assert renderer.base_layout == "llama"
    assert renderer.prompt([turn("user", " 你好 ")], system="s") == tokenizer.encode(rendered).ids


def test_labels_are_the_answers_up_to_their_end_token(chatml: Path) -> None:
    renderer = Renderer.load(chatml)
    turns = (turn("user", "a"), turn("assistant", "你b"), turn("user", "c"), turn("assistant", "d"))
    example = renderer.example(Conversation(turns, 1))
    (end,) = renderer.eos_ids
    learnt = [label for label in example.labels if label != -100]
    assert [label == id_ or label == -100 for label, id_ in zip(example.labels, example.input_ids, strict=True)]
    assert learnt.count(end) == 2
    assert renderer.decode(learnt) == "你bd"
    assert example.input_ids[: len(renderer.prompt(turns[:1]))] == renderer.prompt(turns[:1])


def test_text_with_a_special_string_is_refused(chatml: Path) -> None:
    with pytest.raises(InvalidMessages, match="control token"):
        Renderer.load(chatml).prompt([turn("user", "a<|im_end|>b")])


def test_a_template_that_rewrites_history_is_refused_for_training(tmp_path: Path) -> None:
    template = CHATML.replace("message.content", "(message.content if loop.last else message.content[:1])")
    renderer = Renderer.load(foreign(tmp_path / "foreign", template))
    turns = (turn("user", "ab"), turn("assistant", "cd"), turn("user", "ef"), turn("assistant", "gh"))
    with pytest.raises(InvalidMessages, match="rewrites earlier turns"):
        renderer.example(Conversation(turns, 1))


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only one turn') }}",
        "{% for x in %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ strftime_now('%d') }}",
    ],
)
def test_a_template_that_refuses_or_reaches_out_is_told_as_such(tmp_path: Path, template: str) -> None:
    with pytest.raises(InvalidMessages, match="chat template refuses"):
        Renderer.load(foreign(tmp_path / "foreign", template)).prompt([turn("user", "a")])


def test_a_base_without_a_template_loads_and_does_not_chat(tmp_path: Path) -> None:
    renderer = Renderer.load(foreign(tmp_path / "foreign", None))
    assert not renderer.can_chat
    with pytest.raises(NoChatFormat):
        renderer.prompt([turn("user", "a")])


def test_a_decoder_that_is_not_known_is_refused(chatml: Path) -> None:
    bluelm.edit(chatml / "tokenizer.json", decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
    with pytest.raises(UnsupportedCheckpoint, match="WordPiece"):
        Renderer.load(chatml)


def test_lengths_that_a_tokenizer_was_saved_with_neither_cut_nor_fill_a_prompt(chatml: Path, tmp_path: Path) -> None:
    expected = Renderer.load(chatml).prompt([turn("user", "a" * 40)])
    tokenizer = Tokenizer.from_file(str(chatml / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(chatml / "tokenizer.json"))
    assert Renderer.load(chatml).prompt([turn("user", "a" * 40)]) == expected


def test_a_file_of_the_template_wins_over_the_config(chatml: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(chatml, copy)
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert len(Renderer.load(copy).prompt([turn("user", "abc")])) == 3
