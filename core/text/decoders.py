"""Ids -> text while they arrive. Knows byte pieces and half characters; knows no models and no stop strings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tokenizers import Tokenizer

from core.domain.checkpoints import UnsupportedCheckpoint
from core.text.bounds import SPACE

BYTE_PIECE: Final = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabet:
    """What every id stands for, in UTF-8 bytes; specials stand for nothing.

    `own_spaces` counts the spaces at a text's start that are the tokenizer's own and are not shown, if there.
    `byte_spaces` are ids of a space written as a byte: SentencePiece never takes that one for its own.
    `controls` names the specials.
    """

    bytes_by_id: Sequence[bytes]
    own_spaces: int
    byte_spaces: frozenset[int] = frozenset()
    controls: Mapping[int, str] = field(default_factory=dict)

    def piece(self, id_: int) -> tuple[str | None, bytes]:
        """Show one token by itself: its text, None if its bytes are no whole characters, and those bytes."""
        if id_ in self.controls:
            return self.controls[id_], b""
        raw = self.bytes_by_id[id_] if id_ < len(self.bytes_by_id) else b""
        try:
            return raw.decode(), raw
        except UnicodeDecodeError:
            return None, raw


class Decoder:
    """One answer, decoded as its ids come.

    `feed` returns only whole characters; what is left of a broken one comes from `finish` as U+FFFD, one for each
    byte, as SentencePiece decodes it. The pieces joined are the same however the ids were split.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        self._alphabet = alphabet
        self._pending = b""
        self._own_spaces = alphabet.own_spaces
        self._has_begun = False

    def feed(self, ids: Iterable[int]) -> str:
        """Take the next ids and return the characters that became whole; ids past the tokenizer's are nothing."""
        table = self._alphabet.bytes_by_id
        spelled = [id_ for id_ in ids if id_ < len(table) and table[id_]]
        if spelled and not self._has_begun:
            self._has_begun = True
            if spelled[0] in self._alphabet.byte_spaces:
                self._own_spaces = 0
        self._pending += b"".join(table[id_] for id_ in spelled)
        return self._without_own_spaces(self._take(final=False))

    def finish(self) -> str:
        """Return what is still held back; call once, at the end."""
        return self._without_own_spaces(self._take(final=True))

    def _take(self, *, final: bool) -> str:
        text: list[str] = []
        while self._pending:
            try:
                text.append(self._pending.decode())
                self._pending = b""
            except UnicodeDecodeError as error:
                text.append(self._pending[: error.start].decode())
                if error.reason == "unexpected end of data" and not final:
                    self._pending = self._pending[error.start :]
                    break
                text.append("\ufffd" * (error.end - error.start))
                self._pending = self._pending[error.end :]
        return "".join(text)

    def _without_own_spaces(self, text: str) -> str:
        if not text or not self._own_spaces:
            return text
        shown = text.lstrip(" ")
        spaces = len(text) - len(shown)
        taken = min(spaces, self._own_spaces)
        self._own_spaces = 0 if shown else self._own_spaces - taken
        return text[taken:]


def alphabet(tokenizer: Tokenizer, decoder: Mapping[str, Any] | None) -> Alphabet:
    """List the bytes of every id.

    Args:
        tokenizer: Its vocabulary and added tokens are read.
        decoder: The `decoder` member of its tokenizer.json.

    Raises:
        UnsupportedCheckpoint: The decoder is of a kind whose tokens have no bytes of their own.
    """
    steps = _steps(decoder)
    kinds = {step["type"] for step in steps}
    if unknown := kinds - {"Replace", "ByteFallback", "Fuse", "Strip", "ByteLevel", "Metaspace"}:
        raise UnsupportedCheckpoint(
            f"tokenizer.json decodes by {', '.join(sorted(unknown))}; known are SentencePiece-like and byte-level decoders."
        )
    added = tokenizer.get_added_tokens_decoder()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values()) + 1)
    to_bytes = _byte_level() if "ByteLevel" in kinds else None
    for piece, id_ in vocabulary.items():
        if id_ in added:
            table[id_] = b"" if added[id_].special else piece.encode()
        elif to_bytes is not None:
            table[id_] = b"".join(to_bytes.get(character, character.encode()) for character in piece)
        else:
            table[id_] = _sentencepiece_bytes(piece, byte_fallback="ByteFallback" in kinds)
    byte_spaces = {vocabulary[piece] for piece in ("<0x20>",) if "ByteFallback" in kinds and piece in vocabulary}
    own_spaces = max(map(_own_spaces, steps), default=0)
    return Alphabet(
        bytes_by_id=table,
        own_spaces=own_spaces,
        byte_spaces=frozenset(byte_spaces),
        controls={id_: token.content for id_, token in added.items() if token.special},
    )


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _steps(inner)]
    return [decoder]


def _own_spaces(step: Mapping[str, Any]) -> int:
    if step["type"] == "Metaspace":
        return int(step.get("prepend_scheme", "always") != "never")
    return int(step["start"]) if step["type"] == "Strip" and step["content"] == " " else 0


def _sentencepiece_bytes(piece: str, *, byte_fallback: bool) -> bytes:
    match = BYTE_PIECE.fullmatch(piece) if byte_fallback else None
    return bytes([int(match[1], 16)]) if match else piece.replace(SPACE, " ").encode()


def _byte_level() -> dict[str, bytes]:
    """Undo the byte-level alphabet: printable Latin-1 stands for itself, other bytes for 256 and up.

    Source: the `encoder.py` published with GPT-2.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): bytes([byte]) for byte in printable} | {
        chr(256 + place): bytes([byte]) for place, byte in enumerate(others)
    }
