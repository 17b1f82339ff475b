"""Generated dialogues: the renderer against a reference by SentencePiece, and the template against the renderer."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import sentencepiece
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from core.domain.datasets import Conversation, Turn
from core.text import markers
from core.text.chat import Renderer
from tests.support import bluelm, nano_model, texts
from tests.support.bluelm import turn

SEED: Final = 7
SHARES: Final = [
    pytest.param(600, id="some"),
    pytest.param(20_000, id="many", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
]


@dataclass(frozen=True)
class Case:
    renderer: Renderer
    theirs: PreTrainedTokenizerFast
    processor: sentencepiece.SentencePieceProcessor

    @property
    def human(self) -> int:
        return len(self.processor)

    @property
    def ai(self) -> int:
        return len(self.processor) + 1


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    base = nano_model.imported(tmp_path_factory.mktemp("rendering") / "nano")
    return Case(
        renderer=Renderer.load(base),
        theirs=AutoTokenizer.from_pretrained(base),
        processor=bluelm.processor((nano_model.SOURCE / "tokenizer.model").read_bytes()),
    )


@dataclass(frozen=True)
class Dialogue:
    """One draw: `system` may be None or blank; `turns` end with an answer, of weight 0 or 1."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def is_ordinary(self) -> bool:
        """Whether no text holds a special string, which a template could not tell from a control token."""
        everything = [self.system or "", *(one.content for one in self.turns)]
        return not any(special in text for text in everything for special in markers.SPECIALS)

    @property
    def asked(self) -> tuple[Turn, ...]:
        """Up to the last question, to be answered."""
        return self.turns[:-1]

    def messages(self, turns: tuple[Turn, ...]) -> list[dict[str, str]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + [{"role": one.role, "content": one.content} for one in turns]


def dialogues(processor: sentencepiece.SentencePieceProcessor, count: int) -> Iterator[Dialogue]:
    """Draw dialogues of one to four rounds of hostile texts."""
    rng = random.Random(SEED)
    pieces = [processor.id_to_piece(id_) for id_ in range(260, len(processor))]
    strings = list(texts.hostile(pieces, count=6 * count, seed=SEED, parts=4))
    for _ in range(count):
        rounds = rng.choice([1, 1, 2, 4])
        turns = []
        for place in range(rounds):
            asked = rng.choice(strings)
            # The question to be answered may not be blank.
            turns.append(turn("user", asked if asked.strip() or place < rounds - 1 else "问"))
            turns.append(turn("assistant", rng.choice(strings), rng.choice([1.0, 1.0, 0.0])))
        turns[-1] = turns[-1]._replace(weight=1.0)
        yield Dialogue(system=rng.choice([None, rng.choice(strings), " \n"]), turns=tuple(turns))


def by_hand(case: Case, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Write a dialogue down from the format's description, text by SentencePiece: ids and labels."""
    ids, labels = [1], [-100]
    for place, one in enumerate(dialogue.turns):
        if one.role == "user":
            text = one.content.strip()
            if place == 0 and dialogue.system and dialogue.system.strip():
                text = f"{dialogue.system.strip()}\n\n {text}".strip()
            new = [case.human, *case.processor.encode(text), case.ai]
            labels += [-100] * len(new)
        else:
            new = [*case.processor.encode(one.content.lstrip()), 2]
            labels += new if one.weight else [-100] * len(new)
        ids += new
    return ids, labels


@pytest.mark.parametrize("count", SHARES)
def test_any_text_is_rendered_as_the_format_says_and_the_answers_are_learnt(case: Case, count: int) -> None:
    ordinary = 0
    for dialogue in dialogues(case.processor, count):
        ids, labels = by_hand(case, dialogue)
        example = case.renderer.example(Conversation(dialogue.turns, 1), system=dialogue.system)
        assert (example.input_ids, example.labels) == (ids, labels), f"seed {SEED}: {dialogue}"
        prompt = case.renderer.prompt(dialogue.asked, system=dialogue.system)
        assert ids[: len(prompt)] == prompt
        # Control tokens stand where the format puts them and nowhere else, whatever the texts contain.
        asked = (len(dialogue.turns) + 1) // 2
        expected = {0: 0, 1: 1, 2: asked, 3: 0, case.human: asked, case.ai: asked}
        assert {id_: ids.count(id_) for id_ in expected} == expected
        ordinary += dialogue.is_ordinary
    assert count // 4 < ordinary < count, "both ordinary texts and texts with special strings should be drawn"


@pytest.mark.parametrize("count", SHARES)
def test_the_tokenizers_template_gives_the_renderers_ids_for_ordinary_text_and_refuses_the_rest(
    case: Case, count: int
) -> None:
    for dialogue in dialogues(case.processor, count):
        asked, whole = dialogue.messages(dialogue.asked), dialogue.messages(dialogue.turns)
        if not dialogue.is_ordinary:
            with pytest.raises(TemplateError, match="control token"):
                case.theirs.apply_chat_template(whole, tokenize=False)
            continue
        prompt = case.renderer.prompt(dialogue.asked, system=dialogue.system)
        example = case.renderer.example(Conversation(dialogue.turns, 1), system=dialogue.system)
        for add in (True, False):
            shown = f"seed {SEED}: {dialogue}"
            assert ids_by_template(case, asked, add_generation_prompt=add) == prompt, shown
            assert ids_by_template(case, whole, add_generation_prompt=add) == example.input_ids, shown


def ids_by_template(case: Case, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    found: list[int] = case.theirs.apply_chat_template(
        messages, tokenize=True, return_dict=False, add_generation_prompt=add_generation_prompt
    )
    return found


def test_the_folders_template_file_is_what_the_hash_is_of(case: Case) -> None:
    assert case.theirs.chat_template == markers.TEMPLATE
    assert case.renderer.base_layout == "bluelm"
    assert Path(case.theirs.name_or_path, "chat_template.jinja").read_text(encoding="utf-8") == markers.TEMPLATE
