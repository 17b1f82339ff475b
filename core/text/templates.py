"""Chat formats that a foreign Llama base brings along as a Jinja template.

Rendered as transformers renders them, in a sandbox, but without a clock: a prompt that changes with the day could not
be the one that was trained on. Text is encoded after rendering, so a special string in it can't be told from a control
token and is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from core.domain.datasets import Turn
from core.domain.generation import InvalidMessages
from core.text.bounds import Bound
from core.text.dialogues import Dialogue
from core.text.examples import IGNORED

FAULTS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the code of a template can run into, as any code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A Jinja template and the special strings it may name (`bos_token`, `eos_token`, …)."""

    source: str
    tokens: Mapping[str, str]
    tokenizer: Tokenizer
    bound: Bound
    end_ids: frozenset[int]

    def prompt(self, dialogue: Dialogue) -> list[int]:
        """Write the dialogue, ready for the next answer, as ids.

        Raises:
            InvalidMessages: The template refuses these roles, or a text contains a special string.
        """
        messages = self._messages(dialogue)
        return list(self.tokenizer.encode(self._text(messages, open_answer=True), add_special_tokens=False).ids)

    def fewest(self, dialogue: Dialogue) -> int:
        """Give a number of ids that the prompt has at least, without making them; raises as `prompt` does."""
        return self.bound.fewest(self._text(self._messages(dialogue), open_answer=True))

    def render(self, dialogue: Dialogue) -> tuple[list[int], list[int]]:
        """Write a finished dialogue as ids and labels; an answer's label run ends with its end token.

        Raises:
            InvalidMessages: As in `prompt`, or the template writes an answer differently once it is history.
        """
        messages = self._messages(dialogue)
        offset = len(messages) - len(dialogue.turns)
        text = self._text(messages, open_answer=False)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        labels = [IGNORED] * len(encoding.ids)
        for place, turn in enumerate(dialogue.turns, start=offset):
            if turn.role == "assistant" and turn.weight > 0:
                self._learn(encoding.ids, encoding.offsets, labels, span=self._span(messages, place, whole=text))
        if labels:
            labels[0] = IGNORED
        return list(encoding.ids), labels

    def _learn(
        self, ids: Sequence[int], offsets: Sequence[tuple[int, int]], labels: list[int], *, span: tuple[int, int]
    ) -> None:
        inside = [i for i, (start, end) in enumerate(offsets) if start >= span[0] and start < end <= span[1]]
        ends = [i for i in inside if ids[i] in self.end_ids]
        for i in inside:
            if not ends or i <= ends[-1]:
                labels[i] = ids[i]

    def _span(self, messages: Sequence[Mapping[str, str]], place: int, *, whole: str) -> tuple[int, int]:
        """Find where answer `place` lies in the rendered text, as a range of characters."""
        before = self._text(messages[:place], open_answer=True)
        after = self._text(messages[: place + 1], open_answer=False)
        if not (after.startswith(before) and whole.startswith(after)):
            raise InvalidMessages(
                "The base's chat template rewrites earlier turns, so the tokens of this answer can't be told; "
                "train on rows with one answer each.",
                param=f"messages.{place}",
            )
        return len(before), len(after)

    def _messages(self, dialogue: Dialogue) -> list[Mapping[str, str]]:
        turns = dialogue.turns
        if dialogue.system is not None:
            turns = (Turn("system", dialogue.system), *turns)
        specials = [t.content for t in self.tokenizer.get_added_tokens_decoder().values() if t.special]
        for place, turn in enumerate(turns):
            if found := next((special for special in specials if special in turn.content), None):
                raise InvalidMessages(
                    f"A text contains {found!r}, which this base's tokenizer reads as a control token; remove it.",
                    param=f"messages.{place}",
                )
        return [{"role": turn.role, "content": turn.content} for turn in turns]

    def _text(self, messages: Sequence[Mapping[str, str]], *, open_answer: bool) -> str:
        try:
            template = environment().from_string(self.source)
            return template.render(messages=messages, add_generation_prompt=open_answer, **self.tokens)
        except TemplateError as error:
            raise InvalidMessages(f"The base's chat template refuses these messages: {error.message}") from error
        except FAULTS as error:
            raise InvalidMessages(
                f"The base's chat template fails on these messages with {type(error).__name__}."
            ) from error


def environment() -> ImmutableSandboxedEnvironment:
    """Make the sandbox that chat templates are written for: no autoescape, blocks trimmed, two known helpers."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[loopcontrols],
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    return made


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:  # noqa: ANN401  (whatever a template holds)
    return json.dumps(value, ensure_ascii=False, indent=indent)
