"""Texts on which the converted tokenizer is held against SentencePiece. The same texts every time; no model needed."""

import random
from collections.abc import Iterator, Sequence
from typing import Final

WRITTEN: Final = (
    "",
    " ",
    "  ",
    "你好",
    " 你好 ",
    "今天天气怎么样？我想去公园走走。",
    "全角：ＡＢＣ１２３，（括号）！？；：“引号”‘单’——…",
    "半角: ABC 123, (brackets)! ? ; : \"q\" 'q' -- ...",
    "0 1 12 123 1234 3.14159 2024-01-31 1,000,000 ½ ² Ⅷ",
    "第一行\n第二行\r\n\n第四行\t制表\t\t两个",
    "行首\n 空格\n  两个\n   三个",
    "   多   个    空     格   ",
    "\u3000全角空格\u3000\u00a0不换行\u200b零宽\ufeff",
    "😀👨‍👩‍👧‍👦🇨🇳👍🏽🫠",
    "𠮷𡃁𪚥 龘靐齉爩 ㍿㊙",
    "\x00\x01\x7f\x80\u0301e\u0301é",
    "안녕하세요 こんにちは Привет שלום مرحبا ไทย हिन्दी",
    "▁ ▁▁ 你▁好 a▁b ▁",
    "<s> </s> <unk> <pad> [|Human|]: [|AI|]: [SEH] [SEA] [|SYSTEM|]: <0x41> <0x0A>",
    "[|Human|]:现在你要扮演\n\n 你是谁[|AI|]:",
    "def f(x):\n    return {'a': x**2}  # 注释\n",
    "https://example.com/a?b=c&d=%E4%BD%A0#frag user@example.com",
    "aaaaaaaaaaaaaaaa 哈哈哈哈哈哈哈哈 。。。。。。 ------ ======",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ≤ π ≈ 3.14 → ∞",
)
RANGES: Final = (
    (0x20, 0x7E, 30),
    (0x4E00, 0x9FFF, 30),
    (0x3000, 0x303F, 5),
    (0xFF01, 0xFF5E, 5),
    (0x1F300, 0x1FAFF, 4),
    (0xA0, 0x24F, 4),
    (0x400, 0x4FF, 2),
    (0xAC00, 0xD7A3, 2),
    (0x20000, 0x2A6DF, 2),
    (0x01, 0x1F, 2),
)
"""Code points first to last, and how often each range is drawn."""


def texts(pieces: Sequence[str], *, unusual: Sequence[str] = (), count: int, seed: int = 0) -> Iterator[str]:
    """Yield the written probes, every piece alone, unusual ones between characters, and `count` seeded mixtures.

    Args:
        pieces: The tokenizer's own pieces; mixtures draw from them too, as random characters seldom meet a merge.
        unusual: Pieces of rare types (user defined, unused), whose handling differs between tokenizers.
        count: How many mixtures.
        seed: Of the mixtures.
    """
    yield from WRITTEN
    for piece in unusual:
        yield from (piece, f"你{piece}好", f" {piece} {piece}")
    rng = random.Random(seed)
    plain = [piece.replace("▁", " ") for piece in pieces]
    yield from plain
    for _ in range(count):
        parts = [_part(rng, plain) for _ in range(rng.randint(1, 12))]
        yield "".join(parts)


def _part(rng: random.Random, pieces: Sequence[str]) -> str:
    choice = rng.random()
    if choice < 0.5:
        return rng.choice(pieces)
    if choice < 0.6:
        return rng.choice((" ", "  ", "\n", "\n\n", "\t", "\n\n ", "   "))
    if choice < 0.7:
        return rng.choice(WRITTEN)
    if choice < 0.8:
        return str(rng.randint(0, 10**6))
    low, high, _ = rng.choices(RANGES, weights=[weight for _, _, weight in RANGES])[0]
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 4)))
