r"""BlueLM's own chat format, rendered to ids segment by segment.

    <s>[|Human|]:{system}\n\n {user}[|AI|]:{answer}</s>[|Human|]:{user}[|AI|]:

The white-space rule (system and user text stripped on both ends, answers on the left) makes the two behaviours of
BlueLM's slow tokenizer agree: transformers 4.33 strips around the markers, 4.37 does not.
Source: vivo-ai-lab/BlueLM, cli_demo.py and web_demo.py; the system rule is this service's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tokenizers import Tokenizer

from core.domain.datasets import Turn
from core.text.dialogues import Dialogue
from core.text.examples import IGNORED
from core.text.segments import Segments

FORMAT: Final = "bluelm-chat/1"
HUMAN: Final = "[|Human|]:"
AI: Final = "[|AI|]:"
BOS: Final = "<s>"
EOS: Final = "</s>"
SPECIALS: Final = ("<unk>", BOS, EOS, "<pad>", HUMAN, AI, "[SEH]", "[SEA]")
SYSTEM_JOIN: Final = "\n\n "

TEMPLATE: Final = (
    """{#- bluelm-chat/1 -#}
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- set system = messages[0]['content'] | trim -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- for message in messages -%}
  {%- for special in ["""
    + ", ".join(repr(special) for special in SPECIALS)
    + """] -%}
    {%- if special in message['content'] -%}
      {{- raise_exception('Content may not contain ' ~ special ~ ' here: it would be read as a control token.') -}}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{{- '<s>' -}}
{%- for message in turns -%}
  {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('After at most one system message, user and assistant alternate, the user first.') -}}
  {%- endif -%}
  {%- if message['role'] == 'user' -%}
    {%- set text = message['content'] | trim -%}
    {%- if loop.first and system -%}
      {%- set text = (system ~ '\\n\\n ' ~ text) | trim -%}
    {%- endif -%}
    {{- '[|Human|]:' ~ text ~ '[|AI|]:' -}}
  {%- else -%}
    {{- message['content'].lstrip() ~ '</s>' -}}
  {%- endif -%}
{%- endfor -%}
"""
)
"""For engines that render by template. They can't tell text from markers afterwards, so markers in text are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The control ids of the format."""

    bos: int
    eos: int
    human: int
    ai: int


def marks(tokenizer: Tokenizer) -> Marks | None:
    """Find the four control tokens; None unless each is one special id."""
    special = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found = [special.get(text) for text in (BOS, EOS, HUMAN, AI)]
    bos, eos, human, ai = found
    if bos is None or eos is None or human is None or ai is None:
        return None
    return Marks(bos=bos, eos=eos, human=human, ai=ai)


def render(dialogue: Dialogue, *, marks: Marks, segments: Segments) -> tuple[list[int], list[int]]:
    """Write a dialogue as ids, and the labels of the same length: answers of weight above 0 and their `</s>`."""
    ids, labels = [marks.bos], [IGNORED]
    for turn, text in _written(dialogue):
        if turn.role == "user":
            new = [marks.human, *segments.encode(text), marks.ai]
        else:
            new = [*segments.encode(text), marks.eos]
        learnt = turn.role == "assistant" and turn.weight > 0
        ids += new
        labels += new if learnt else [IGNORED] * len(new)
    return ids, labels


def fewest(dialogue: Dialogue, *, segments: Segments) -> int:
    """Give a number of ids that the dialogue has at least, without making them."""
    return sum(segments.fewest(text) for _, text in _written(dialogue))


def _written(dialogue: Dialogue) -> Iterator[tuple[Turn, str]]:
    """Give each turn and its text as it is encoded: by the white-space rule, the system text in the first one."""
    for place, turn in enumerate(dialogue.turns):
        if turn.role == "assistant":
            yield turn, turn.content.lstrip()
        elif place == 0 and dialogue.system is not None:
            yield turn, (dialogue.system.strip() + SYSTEM_JOIN + turn.content.strip()).strip()
        else:
            yield turn, turn.content.strip()
