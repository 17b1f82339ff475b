"""Strings that are single control tokens of BlueLM; in text they are encoded as plain characters."""

import re
from typing import Final

from core.domain.datasets import Turn

CONTROL: Final = re.compile(r"\[\|(?:Human|AI)\|\]:|\[SE[HA]\]|</?s>|<unk>|<pad>")


def is_in(turns: tuple[Turn, ...]) -> bool:
    """Say whether any text holds a string that looks like one of the model's control tokens."""
    for turn in turns:
        text = turn.content
        if ("[" in text or "<" in text) and CONTROL.search(text):
            return True
    return False
