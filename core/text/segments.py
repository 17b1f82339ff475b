"""Text -> ids, where the text is only text: special strings in it are spelt out, never control tokens.

Two encoders: `tokenizers` with the folder's tokenizer.json, and SentencePiece itself for folders whose importer found
that the two differ (they carry `segments.model`).
"""

from pathlib import Path
from typing import Final, Protocol

from tokenizers import Tokenizer
from typing_extensions import override

from core.text.bounds import Bound

SENTENCEPIECE_FILE: Final = "segments.model"


class Segments(Protocol):
    """Encodes one segment, the text between two control tokens."""

    def encode(self, text: str) -> list[int]:
        """Give the ids of `text`; an empty text has none."""

    def fewest(self, text: str) -> int:
        """Give a number of ids that `text` has at least, without making them."""


class FastSegments(Segments):
    """Segments by `tokenizers`; takes the tokenizer over: from here on it reads special strings as text."""

    def __init__(self, tokenizer: Tokenizer, bound: Bound) -> None:
        self._tokenizer = tokenizer
        self._bound = bound
        self._tokenizer.encode_special_tokens = True

    @override
    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @override
    def fewest(self, text: str) -> int:
        return self._bound.fewest(text)


class SentencePieceSegments(Segments):
    """Segments by SentencePiece itself."""

    def __init__(self, model_file: Path) -> None:
        import sentencepiece  # noqa: PLC0415  (only bases with this file need it, and few have it)

        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        pieces = map(self._processor.id_to_piece, range(self._processor.get_piece_size()))
        self._longest = max(map(len, pieces))

    @override
    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    @override
    def fewest(self, text: str) -> int:
        return -(-len(self._processor.normalize(text)) // self._longest)


def load(base_dir: Path, tokenizer: Tokenizer, bound: Bound) -> Segments:
    """Pick the encoder that the importer settled on for this folder; `bound` is the tokenizer's."""
    model_file = base_dir / SENTENCEPIECE_FILE
    return SentencePieceSegments(model_file) if model_file.exists() else FastSegments(tokenizer, bound)
