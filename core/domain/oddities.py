"""Odd things in texts that a model would learn: traces of wrong encodings, invisible and control characters, markers.

Looked for in the texts of many rows at once. What characters occur at all is known by then, so that nearly all text
is never searched.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.domain.rows import CONTROL

SEPARATOR: Final = "\0"
"""Stands between texts; no text may hold it."""
Occurs = NDArray[np.bool_]
"""By UTF-16 code unit: whether the texts hold it."""

# A byte 0x80 to 0xBF read as Latin-1, or as Windows-1252 where that differs.
_CP1252: Final = "€‚ƒ„†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ…"
_TAIL: Final = f"[\x80-\xbf{_CP1252}]"
# The same without what French puts between a word and its quotation marks.
_RARE_TAIL: Final = "\x80-\x9f¡-ª¬-¯±-º¼-¿€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ"
_MOJIBAKE: Final = re.compile(
    "\ufffd|锟斤拷"
    "|[ÂÃ](?:[\x80-\x9f¡-º¼-¿]|\xa0(?![»:;?!]))|Ã[€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]"  # UTF-8 of European letters and signs, read as Latin-1
    "|[âã][\x80€]|ï[¼»]" + _TAIL + f"|(?:[ä-é]{_TAIL}{{2}}){{2}}"  # of Chinese and its punctuation
    "|[锛銆鈥][^\0]{0,200}?[锛銆鈥鐨]"  # UTF-8 of Chinese, read as GBK
)


@dataclass(frozen=True, slots=True)
class Oddity:
    """One kind: its code, what it looks like, and sets of characters of which each must occur for it to be there."""

    code: str
    pattern: re.Pattern[str]
    signs: tuple[tuple["Units", ...], ...]

    def may_occur(self, occurs: Occurs) -> bool:
        """Say whether the characters that a text is made of leave room for it."""
        return any(all(bool(occurs[units].any()) for units in needed) for needed in self.signs)


Units = NDArray[np.int64]


_ALL: Final = "".join(map(chr, range(0x10000)))


def _units(characters: str) -> Units:
    """Spell out a character class."""
    return np.array([match.start() for match in re.finditer(f"[{characters}]", _ALL)], dtype=np.int64)


_BRACKETS: Final = (_units(r"\[<"),)
_INVISIBLE: Final = "\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069"
_CONTROLS: Final = "\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"
KINDS: Final = (
    Oddity("control_token_in_text", CONTROL, (_BRACKETS,)),
    Oddity(
        "garbled_text",
        _MOJIBAKE,
        (
            (_units("\ufffd锟ÂÃ锛銆鈥"),),
            (_units("âã"), _units("\x80€")),
            (_units("ï"), _units("¼»")),
            (_units("ä-é"), _units(_RARE_TAIL)),
        ),
    ),
    Oddity("invisible_characters", re.compile(f"[{_INVISIBLE}]"), ((_units(_INVISIBLE),),)),
    Oddity("control_characters", re.compile(f"[{_CONTROLS}]"), ((_units(_CONTROLS),),)),
)


def find(joined: str, texts: Sequence[str], occurs: Occurs) -> dict[str, list[int]]:
    """Find odd texts: their places, by oddity.

    Args:
        joined: The texts, with SEPARATOR between.
        texts: The same one by one.
        occurs: What characters they hold.
    """
    possible = (kind for kind in KINDS if kind.may_occur(occurs))
    return {kind.code: places for kind in possible if (places := _places(joined, texts, kind.pattern))}


def _places(joined: str, texts: Sequence[str], pattern: re.Pattern[str]) -> list[int]:
    found: list[int] = []
    match = pattern.search(joined)
    if match is None:
        return found
    starts = [0, *accumulate(len(text) + 1 for text in texts)]
    while match is not None:
        found.append(bisect_right(starts, match.start()) - 1)
        match = pattern.search(joined, starts[found[-1] + 1])
    return found
