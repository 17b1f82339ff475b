"""SentencePiece BPE -> a `tokenizers` pipeline with the same ids, and the check that they are the same.

Knows BlueLM's added tokens as a list of strings; knows no files, no chat and no weights.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from core.domain.checkpoints import DamagedCheckpoint, UnsupportedCheckpoint
from core.text.bounds import SPACE, TRIMMING

BPE: Final = 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
ALL_SPACES: Final = 2**20
AT_ONCE: Final = 1000
BASIC: Final = ("<unk>", "<s>", "</s>", "<pad>")
"""The control pieces that BlueLM's model files have; ids come from the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A text that the two tokenizers read differently."""

    text: str
    expected_ids: tuple[int, ...]
    found_ids: tuple[int, ...]


class SentencePieces:
    """A parsed `tokenizer.model`.

    Raises:
        DamagedCheckpoint: The bytes are no SentencePiece model, or it contradicts itself.
        UnsupportedCheckpoint: A model of another kind than BlueLM's: not BPE, no byte fallback, other white-space rules.
    """

    def __init__(self, serialized: bytes) -> None:
        self.serialized = serialized
        damaged = DamagedCheckpoint("tokenizer.model is not a SentencePiece model, or is cut off.")
        try:
            self._model = sentencepiece_model.ModelProto.FromString(serialized)
        except DecodeError as error:
            raise damaged from error
        self.ids = {piece.piece: id_ for id_, piece in enumerate(self._model.pieces)}
        self._check()
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        except (RuntimeError, ValueError) as error:
            raise damaged from error

    def __len__(self) -> int:
        return len(self._model.pieces)

    def pieces(self, kind: int) -> list[str]:
        """List the pieces of one type, by id."""
        return [piece.piece for piece in self._model.pieces if piece.type == kind]

    def fast(self, added: Sequence[str]) -> Tokenizer:
        """Build the pipeline; `added` become special tokens and take the next free ids in order."""
        tokenizer = Tokenizer(
            models.BPE(
                vocab=self.ids,
                merges=self._merges(),
                unk_token=BASIC[0],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        tokenizer.normalizer = normalizers.Sequence(self._normalizers())
        # With this switch SentencePiece shows none of a text's leading spaces, without it all but its own one.
        own = ALL_SPACES if self._model.normalizer_spec.remove_extra_whitespaces else 1
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", own, 0)]
        )
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", self.ids["<s>"])]
        )
        # `normalized` would send the text through Prepend before the specials are looked for, and none would match.
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in (*BASIC, *added)])
        defined = [text for text in self.pieces(USER_DEFINED) if text not in BASIC and text not in added]
        tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in defined])
        return tokenizer

    def obstacles(self) -> list[str]:
        """Name what no pipeline of `tokenizers` reproduces for every text; few texts show it, so probes may miss it."""
        scores = [piece.score for piece in self._model.pieces if piece.type == NORMAL and len(piece.piece) > 1]
        found = {
            # tokenizers 0.23 looks up clusters of letter and marks, where SentencePiece takes the longest entry.
            "its character map": bool(self._model.normalizer_spec.precompiled_charsmap),
            # SentencePiece merges the leftmost of equal pairs, tokenizers the one whose merge is listed first.
            "pieces of equal score": len(set(scores)) < len(scores),
        }
        return [obstacle for obstacle, there in found.items() if there]

    def difference(self, tokenizer: Tokenizer, texts: Iterable[str]) -> Difference | None:
        """Return the first text that `tokenizer` encodes or decodes otherwise than SentencePiece; None if all agree."""
        tokenizer.encode_special_tokens = True
        remaining = iter(texts)
        try:
            while some := list(itertools.islice(remaining, AT_ONCE)):
                expected = self.processor.encode(some)
                found = [encoding.ids for encoding in tokenizer.encode_batch(some, add_special_tokens=False)]
                shown = zip(self.processor.decode(expected), tokenizer.decode_batch(found), strict=True)
                for text, ids, other_ids, (one, other) in zip(some, expected, found, shown, strict=True):
                    if ids != other_ids or one != other:
                        return Difference(text=text, expected_ids=tuple(ids), found_ids=tuple(other_ids))
        finally:
            tokenizer.encode_special_tokens = False
        return None

    def _merges(self) -> list[tuple[str, str]]:
        """List each split of a normal piece into two, best result first, as SentencePiece merges by score."""
        normal = {p.piece: p.score for p in self._model.pieces if p.type == NORMAL}
        ranked = [
            (-score, self.ids[piece[:cut]], self.ids[piece[cut:]], piece, cut)
            for piece, score in normal.items()
            for cut in range(1, len(piece))
            if piece[:cut] in normal and piece[cut:] in normal
        ]
        return [(piece[:cut], piece[cut:]) for _, _, _, piece, cut in sorted(ranked)]

    def _normalizers(self) -> list[Any]:
        spec = self._model.normalizer_spec
        steps: list[Any] = []
        if spec.precompiled_charsmap:
            try:
                steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
            except Exception as error:  # tokenizers raises bare Exception
                raise DamagedCheckpoint("The character map of tokenizer.model can't be read.") from error
        if spec.remove_extra_whitespaces:
            # SentencePiece means U+0020 alone; at the end also the piece that stands for it.
            steps += [
                normalizers.Replace(Regex(pattern), kept) for pattern, kept in zip(TRIMMING, ("", "", " "), strict=True)
            ]
        return [*steps, normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]

    def _check(self) -> None:
        trainer, normalizer = self._model.trainer_spec, self._model.normalizer_spec
        if len(self.ids) != len(self._model.pieces) or not all(isinstance(piece, str) and piece for piece in self.ids):
            raise DamagedCheckpoint("tokenizer.model lists a piece twice, or one that is no text.")
        if missing := [text for text in BASIC if text not in self.ids]:
            raise UnsupportedCheckpoint(f"tokenizer.model has no piece {', '.join(missing)}; BlueLM's has all four.")
        faults = {
            "is not of type BPE": trainer.model_type != BPE,
            "has no byte fallback": not trainer.byte_fallback or len(self.pieces(BYTE)) != 256,
            "puts no space before a text (add_dummy_prefix)": not normalizer.add_dummy_prefix,
            "writes spaces as suffixes": trainer.treat_whitespace_as_suffix,
            "does not escape spaces": not normalizer.escape_whitespaces,
            "changes text while decoding": bool(self._model.denormalizer_spec.precompiled_charsmap),
        }
        if found := [fault for fault, there in faults.items() if there]:
            raise UnsupportedCheckpoint(
                f"tokenizer.model {' and '.join(found)}, so it is not BlueLM's; use the tokenizer.model of the release."
            )
