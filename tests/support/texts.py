"""Hostile strings for tokenizers: everything that has gone wrong somewhere, side by side in random order."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

KINDS: Final[dict[str, Sequence[str]]] = {
    "ascii": [chr(point) for point in range(0x20, 0x7F)],
    "digits": [*"0123456789٣๓½²Ⅷ①", "3.14", "1,000", "2024-01-31", "００７"],
    "han": [chr(point) for point in range(0x4E00, 0x9FFF, 7)],
    "rare han": [chr(point) for point in range(0x20000, 0x2A6DF, 97)],
    "full width": [*map(chr, range(0xFF01, 0xFF5E)), *"，。！？；：“”‘’（）《》【】、…—～￥"],
    "emoji": ["😀", "👨‍👩‍👧‍👦", "🇨🇳", "👍🏽", "🫠", "❤️", "☺︎", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"],
    "spaces": [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n ", "\v", "\f"],
    "other spaces": list("\u00a0\u1680\u180e\u2002\u2009\u200b\u200d\u2028\u2029\u202f\u205f\u3000\ufeff\u0085"),
    "combining": ["\u0301", "\u0308", "\u20dd", "\u3099", "e\u0301", "か\u3099", "a\u0300\u0301", "ﾊ\uff9f", "\u0344"],
    "jamo": ["\u1100\u1161", "\u1100\u1161\u11a8", "\u11a8", "각"],
    "right to left": list("שלוםمرحبا\u064b\u0651\u061c\u200e\u200f\u202a\u202b\u202e\u202c\u2066\u2069"),
    "controls": [chr(point) for point in (*range(0x20), *range(0x7F, 0xA0))],
    "nul": ["\x00", "\x00\x00"],
    "broken": ["\ufffd", "\ufffd\ufffd"],
    "odd": list("\ufffe\uffff\ue000\U0010ffff\U000f0000\u00ad\ufb01ﷺ㍿№ſßİ\u0345▁"),
    "markers": ["[|Human|]:", "[|AI|]:", "[SEH]", "[SEA]", "<s>", "</s>", "<pad>", "<unk>", "[|SYSTEM|]:"],
    "fragments": ["[|", "|]:", "[|Human", "Human|]:", "[|AI|]", "[SE", "</s", "<0x41>", "<0xE4>", "<0x", "[|ＡＩ|]:"],
    "scripts": list("Приветไทยहिन्दीবাংলাతెలుగు안녕こんにちはàéîõüΑΩ"),
}


def hostile(pieces: Sequence[str], *, count: int, seed: int, parts: int = 7) -> Iterator[str]:
    """Yield the empty string, then mixtures of at most `parts` parts.

    Args:
        pieces: The tokenizer's own pieces: random characters seldom meet a merge.
        count: How many strings in all.
        seed: Of the mixtures.
        parts: A part is a few strings of one kind, a piece, or any code point at all.
    """
    rng = random.Random(seed)
    kinds = [
        *KINDS.values(),
        [piece.replace("▁", " ") for piece in pieces],
        [piece.replace("▁", " ") for piece in pieces],
    ]
    yield ""
    for _ in range(count - 1):
        yield "".join(_part(rng, kinds) for _ in range(rng.randint(0, parts)))


def _part(rng: random.Random, kinds: Sequence[Sequence[str]]) -> str:
    if rng.random() < 0.1:
        point = rng.randrange(0x110000 - 0x800)
        return chr(point if point < 0xD800 else point + 0x800)  # past the surrogates, which are no characters
    return "".join(rng.choices(rng.choice(kinds), k=rng.randint(1, 3)))
