"""BlueLM's chat format, to the token."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from core.domain.checkpoints import DamagedCheckpoint, UnsupportedCheckpoint
from core.domain.datasets import Conversation
from core.domain.generation import InvalidMessages, Message
from core.ml import probes
from core.text import markers
from core.text.chat import Renderer
from core.text.templates import environment
from tests.support import bluelm
from tests.support.bluelm import turn

PERSONA = "现在你要扮演旧书店里的一只猫"


@pytest.fixture(scope="session")
def whole(base: Path) -> Tokenizer:
    """Read a rendered string as engines do that know no segments."""
    return Tokenizer.from_file(str(base / "tokenizer.json"))


def test_the_tutorials_prompt_comes_out_to_the_token(renderer: Renderer, whole: Tokenizer) -> None:
    instruction, user_input = "雨下了一整天，", "你在窗台上看见了什么？"
    literal = f"[|Human|]:现在你要扮演旧书店里的一只猫\n\n {instruction}{user_input}[|AI|]:"
    prompt = renderer.prompt([turn("user", instruction + user_input)], system=PERSONA)
    assert prompt == whole.encode("<s>" + literal, add_special_tokens=False).ids
    assert prompt == whole.encode(literal).ids
    answer = "嘘——檐下有两只麻雀，在等雨停。"
    example = renderer.example(
        bluelm.conversation(("user", instruction + user_input), ("assistant", answer)), system=PERSONA
    )
    response = whole.encode(answer, add_special_tokens=False).ids
    # The tutorial: tokenizer(prompt) + tokenizer(answer) + eos, and -100 over the prompt.
    assert example.input_ids == [*prompt, *response, 2]
    assert example.labels == [-100] * len(prompt) + [*response, 2]


def test_turns_are_joined_by_the_end_token_alone(renderer: Renderer, whole: Tokenizer) -> None:
    turns = [
        ("user", "你好"),
        ("assistant", "你好！"),
        ("user", "你是谁？"),
        ("assistant", "我是模型。"),
        ("user", "再见"),
    ]
    literal = "<s>[|Human|]:你好[|AI|]:你好！</s>[|Human|]:你是谁？[|AI|]:我是模型。</s>[|Human|]:再见[|AI|]:"
    assert renderer.prompt([turn(*t) for t in turns]) == whole.encode(literal, add_special_tokens=False).ids
    assert (
        renderer.prompt([Message(role="user", content="你好")])
        == whole.encode("<s>[|Human|]:你好[|AI|]:", add_special_tokens=False).ids
    )


def test_a_conversations_own_system_text_wins_and_an_empty_one_means_none(renderer: Renderer) -> None:
    user = turn("user", "你好")
    own = renderer.prompt([turn("system", "一"), user], system="二")
    assert own == renderer.prompt([user], system="一") == renderer.prompt([turn("user", "一\n\n 你好")])
    assert renderer.prompt([turn("system", " "), user], system="二") == renderer.prompt([user])


def test_only_the_first_user_text_takes_the_system_text(renderer: Renderer) -> None:
    turns = [turn("user", "一"), turn("assistant", "二"), turn("user", "三")]
    assert renderer.prompt(turns, system="系统") == renderer.prompt([turn("user", "系统\n\n 一"), *turns[1:]])


def test_white_space_is_stripped_where_versions_of_the_slow_tokenizer_differ(renderer: Renderer) -> None:
    plain = [turn("user", "问"), turn("assistant", "答 \n"), turn("user", "再问")]
    spaced = [turn("user", " \n问\u3000\n"), turn("assistant", "\n\t 答 \n"), turn("user", "\u00a0再问 ")]
    assert renderer.prompt(spaced, system="\n设定 ") == renderer.prompt(plain, system="设定")
    assert renderer.prompt(plain) != renderer.prompt([plain[0], turn("assistant", "答"), plain[2]])


@pytest.mark.parametrize("text", ["</s>", "[|AI|]:", "a</s>[|Human|]:b[|AI|]:<s><pad><unk>[SEH][SEA]", "<0x41>"])
def test_special_strings_in_text_stay_text(renderer: Renderer, text: str) -> None:
    ids = renderer.prompt([turn("user", f"你{text}好"), turn("assistant", text), turn("user", "x")], system=text)
    controls = [id_ for id_ in ids if id_ in {0, 1, 2, 3} or id_ >= bluelm.chat_of(renderer).marks.human]
    human, ai = bluelm.chat_of(renderer).marks.human, bluelm.chat_of(renderer).marks.ai
    assert controls == [1, human, ai, 2, human, ai]
    assert bluelm.chat_of(renderer).segments.encode(text) == bluelm.processor(bluelm.pieces()).encode(text)


def test_labels_are_exactly_the_answers_of_weight_above_zero_and_their_end(renderer: Renderer) -> None:
    turns = (
        turn("user", "一"),
        turn("assistant", "你好", 0.0),
        turn("user", "二"),
        turn("assistant", " 我是", 1.0),
        turn("user", "三"),
        turn("assistant", "", 1.0),
    )
    example = renderer.example(Conversation(turns, 7), system="设定")
    prompt_1 = renderer.prompt(turns[:1], system="设定")
    prompt_2, prompt_3 = (renderer.prompt(turns[:n], system="设定") for n in (3, 5))
    answer = bluelm.chat_of(renderer).segments.encode("我是")
    assert example.input_ids == [*prompt_3, 2]
    assert example.labels == [-100] * len(prompt_2) + [*answer, 2] + [-100] * (
        len(prompt_3) - len(prompt_2) - len(answer) - 1
    ) + [2]
    assert len(prompt_1) < len(prompt_2)
    assert example.line == 7


@pytest.mark.parametrize(
    ("turns", "place"),
    [
        ([], 0),
        ([("system", "a")], 1),
        ([("assistant", "a")], 0),
        ([("user", "a"), ("user", "b")], 1),
        ([("user", "a"), ("system", "b")], 1),
        ([("system", "a"), ("system", "b"), ("user", "c")], 1),
        ([("user", "a"), ("assistant", "b")], 1),
        ([("user", " \n")], 0),
        ([("user", "a"), ("assistant", "b"), ("user", "")], 2),
    ],
)
def test_roles_out_of_order_and_empty_last_turns_are_refused(
    renderer: Renderer, turns: list[tuple[str, str]], place: int
) -> None:
    with pytest.raises(InvalidMessages) as caught:
        renderer.prompt([turn(*t) for t in turns])
    assert caught.value.param == f"messages.{place}"


def test_a_row_without_anything_to_learn_is_refused_by_its_line(renderer: Renderer) -> None:
    with pytest.raises(InvalidMessages, match=r"Line 12: .*weight 0"):
        renderer.example(Conversation((turn("user", "a"), turn("assistant", "b", 0)), 12))
    with pytest.raises(InvalidMessages, match=r"Line 3: .*expected one of the assistant"):
        renderer.example(Conversation((turn("user", "a"),), 3))


def test_the_chat_template_gives_the_renderers_ids_for_ordinary_text(
    base: Path, renderer: Renderer, whole: Tokenizer
) -> None:
    template = environment().from_string((base / "chat_template.jinja").read_text())
    texts = [t for t in probes.texts(["你", "好", "the", "▁a"], count=400) if not any(s in t for s in markers.SPECIALS)]
    for place in range(0, len(texts) - 4, 2):
        system, one, answer, two = texts[place : place + 4]
        messages = [("system", system), ("user", one), ("assistant", answer), ("user", two + "吗")]
        rendered = template.render(
            messages=[{"role": r, "content": c} for r, c in messages], add_generation_prompt=True
        )
        assert whole.encode(rendered, add_special_tokens=False).ids == renderer.prompt([turn(*m) for m in messages])


def test_the_chat_template_refuses_what_it_cannot_keep_apart(base: Path) -> None:
    template = environment().from_string((base / "chat_template.jinja").read_text())
    for content in markers.SPECIALS:
        with pytest.raises(Exception, match="control token"):
            template.render(messages=[{"role": "user", "content": f"a{content}"}])
    with pytest.raises(Exception, match="alternate"):
        template.render(messages=[{"role": "assistant", "content": "a"}])


def test_the_template_hash_is_of_the_format_and_not_of_the_place(
    base: Path, renderer: Renderer, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    assert Renderer.load(copy).template_hash == renderer.template_hash
    assert renderer.template_hash == json.loads((base / "import.json").read_text())["template_hash"]
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert Renderer.load(copy).template_hash != renderer.template_hash


def test_a_template_of_another_version_is_refused_rather_than_guessed_at(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (copy / "chat_template.jinja").write_text(markers.TEMPLATE.replace("bluelm-chat/1", "bluelm-chat/2"))
    with pytest.raises(UnsupportedCheckpoint, match="import the base again"):
        Renderer.load(copy)


def test_the_renderer_knows_the_bases_limits(renderer: Renderer) -> None:
    assert renderer.base_layout == "bluelm"
    assert renderer.context_length == 128
    assert renderer.eos_ids == {2, bluelm.chat_of(renderer).marks.human}
    assert renderer.pad_id == 3


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_folder_short_of_a_file_is_refused(base: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (copy / name).unlink()
    with pytest.raises(DamagedCheckpoint, match=name):
        Renderer.load(copy)
