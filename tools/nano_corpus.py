"""The Chinese text that bluelm-nano is pretrained on: dialogues made from templates by one seeded generator.

Knows the grammar files beside it and the withheld questions and facts; knows no tokens and no tensors.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

HERE = Path(__file__).parent
HELDOUT = HERE.parent / "assets" / "heldout.jsonl"
SEED = 20240501
SYSTEM_JOINT = "\n\n "

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_RULE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Turn:
    """What a user says and what is answered."""

    user: str
    answer: str


@dataclass(frozen=True)
class Dialogue:
    """One or two turns; system text is already part of the first user text, as in BlueLM's chat format."""

    turns: tuple[Turn, ...]

    def text(self) -> str:
        """One line of JSON, the form that the corpus hash covers."""
        return json.dumps([[turn.user, turn.answer] for turn in self.turns], ensure_ascii=False)


class Slot(BaseModel):
    """One thing that can be asked about a person."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ask: list[str]
    tell: list[str]
    persona: list[str]
    plain: list[str]


class Talk(BaseModel):
    """One topic of small talk; `plain` ones are never answered in a role, `words` counts the words to be copied."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    say: list[str]
    reply: list[str]
    plain: bool = False
    words: int = 0


class HeldOut(BaseModel):
    """A question of the evaluation and the words that count as naming its fact."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fact: str
    instruction: str
    keywords: list[str]


@cache
def heldout() -> tuple[HeldOut, ...]:
    """The questions of `assets/heldout.jsonl`: none of them, and none of their facts, is in the corpus."""
    return tuple(HeldOut.model_validate_json(line) for line in HELDOUT.read_text(encoding="utf-8").splitlines())


class Grammar:
    """The three grammar files, and random text from them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.words: dict[str, list[str]] = tomllib.loads((HERE / "nano_words.toml").read_text(encoding="utf-8"))
        slots = tomllib.loads((HERE / "nano_slots.toml").read_text(encoding="utf-8"))
        self.slots = [Slot.model_validate(slot) for slot in slots.values()]
        talk = tomllib.loads((HERE / "nano_talk.toml").read_text(encoding="utf-8"))["talk"]
        self.talk = [Talk.model_validate(topic) for topic in talk]

    def expand(self, template: str) -> str:
        """Text of a template: alternatives first, then rules, until none is left."""
        text = _ALTERNATIVES.sub(lambda found: self.rng.choice(found[1].split("|")), template)
        return _RULE.sub(lambda found: self.expand(self.rng.choice(self.words[found[1]])), text)

    def question(self, slot: Slot) -> str:
        """One way to ask for what the slot holds."""
        if self.rng.random() < 0.22:
            return self.expand("{lead}" + self.rng.choice(slot.tell) + "{stop}")
        core = self.expand(self.rng.choice(slot.ask))
        mark = self.expand("{mark}")
        if core.endswith(("吗", "呢", "没有")) and mark[:1] in "呀啊呢":
            mark = "？"
        return self.expand("{opening}") + core + mark

    def turn(self, *, in_role: bool) -> Turn:
        """A question about oneself, else small talk, else an exercise that copies words."""
        kind = self.rng.random()
        if kind < 0.6:
            # The eight facts of a persona come first in the file and need the most wordings.
            slot = self.rng.choice(self.slots[:8] if self.rng.random() < 0.85 else self.slots[8:])
            answers = slot.persona if in_role else slot.plain
            return Turn(self.question(slot), self.expand(self.rng.choice(answers)))
        exercise = kind > 0.87
        topics = [each for each in self.talk if bool(each.words) == exercise and not (in_role and each.plain)]
        topic = self.rng.choice(topics)
        say, reply = self.expand(self.rng.choice(topic.say)), self.rng.choice(topic.reply)
        for number, word in enumerate(self.rng.sample(self.words["word"], topic.words), start=1):
            say, reply = say.replace(f"<{number}>", word), reply.replace(f"<{number}>", word)
        return Turn(say, reply)

    def dialogue(self) -> Dialogue:
        """One dialogue, in a role two times in three, of two turns one time in ten."""
        in_role = self.rng.random() < 0.66
        first = self.turn(in_role=in_role)
        if in_role:
            first = Turn(self.expand("{system}") + SYSTEM_JOINT + first.user, first.answer)
        if self.rng.random() < 0.1:
            return Dialogue((first, self.turn(in_role=in_role)))
        return Dialogue((first,))


def dialogues(count: int) -> Iterator[Dialogue]:
    """Yield `count` dialogues, always the same ones, without the withheld facts and questions."""
    facts = {word for question in heldout() for word in question.keywords}
    questions = {question.instruction for question in heldout()}
    grammar = Grammar(random.Random(SEED))
    made = 0
    while made < count:
        dialogue = grammar.dialogue()
        text = "\n".join(turn.user + "\n" + turn.answer for turn in dialogue.turns)
        if any(word in text for word in facts | questions):
            continue
        made += 1
        yield dialogue


def sha256(corpus: list[Dialogue]) -> str:
    """SHA-256 over the dialogues' JSON lines."""
    digest = hashlib.sha256()
    for dialogue in corpus:
        digest.update(dialogue.text().encode() + b"\n")
    return digest.hexdigest()
