"""bluelm-nano's SentencePiece tokenizer, and BlueLM's chat format in token ids.

Knows text and ids; knows no tensors. Ids: `<unk>` 0, `<s>` 1, `</s>` 2, `<pad>` 3, then the pieces, then the four
added tokens.
"""

from __future__ import annotations

import io
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece as spm

from tools.nano_corpus import Dialogue, Turn

PIECES = 2552
BOS, EOS, PAD = 1, 2, 3
HUMAN, AI = PIECES, PIECES + 1
ADDED = ("[|Human|]:", "[|AI|]:", "[SEH]", "[SEA]")
IGNORED = -100
_REQUIRED = string.printable[:94] + "，。？！：；、（）“”‘’《》…—"


@dataclass(frozen=True)
class Example:
    """One dialogue as ids; `labels` holds `IGNORED` everywhere but on answers and their `</s>`."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def train(corpus: Iterable[Dialogue]) -> bytes:
    """Train the BPE on the corpus and return the `tokenizer.model` file's bytes.

    Pieces of at most three characters: templates would otherwise turn whole questions into single tokens. The
    normaliser leaves the text as it is, so full-width marks and runs of white space survive.
    """
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=_lines(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        character_coverage=1.0,
        byte_fallback=True,
        add_dummy_prefix=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        max_sentencepiece_length=2,
        required_chars=_REQUIRED,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=PAD,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _lines(corpus: Iterable[Dialogue]) -> Iterator[str]:
    for dialogue in corpus:
        for turn in dialogue.turns:
            yield from turn.user.splitlines()
            yield turn.answer


class Chat:
    """Renders dialogues segment by segment, so that text never turns into a marker."""

    def __init__(self, tokenizer_model: Path) -> None:
        self.pieces = spm.SentencePieceProcessor(model_file=str(tokenizer_model))

    def prompt(self, user: str) -> list[int]:
        """Ids of `<s>[|Human|]:{user}[|AI|]:`."""
        return [BOS, *self._question(user)]

    def example(self, turns: Iterable[Turn]) -> Example:
        """A dialogue with its labels; one `<s>` at the very start."""
        ids, labels = [BOS], [IGNORED]
        for turn in turns:
            asked = self._question(turn.user)
            answered = [*self.pieces.encode(turn.answer), EOS]
            ids += asked + answered
            labels += [IGNORED] * len(asked) + answered
        return Example(tuple(ids), tuple(labels))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without specials, added tokens and rows that no text maps to."""
        return str(self.pieces.decode([each for each in ids if PAD < each < PIECES]))

    def _question(self, user: str) -> list[int]:
        return [HUMAN, *self.pieces.encode(user), AI]
