"""Which scripts a text is written in: shares of its letters by Unicode script. Not its language: Han is not Chinese.

A script is read from a character's Unicode name, so no table of ranges is kept here.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

SHOWN: Final = 8
LEAST_SHARE: Final = 0.001
_NAMES: Final = {"CJK": "Han"}
_WIDTHS: Final = frozenset({"HALFWIDTH", "FULLWIDTH"})


def shares(counts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Give each script's share of all letters, largest first, from (character, how often)."""
    letters: Counter[str] = Counter()
    for character, count in counts:
        if character.isalpha():
            letters[_script(character)] += count
    total = letters.total()
    common = letters.most_common(SHOWN) if total else []
    return {script: round(count / total, 4) for script, count in common if count / total >= LEAST_SHARE}


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    first, *rest = unicodedata.name(character, "OTHER").replace("-", " ").split()
    word = rest[0] if first in _WIDTHS and rest else first
    return _NAMES.get(word, word.capitalize())
