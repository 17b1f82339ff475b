"""How few tokens a text can have, told from its length alone.

A text without words to split at is merged as a whole, at a second or more a million characters. What can't fit anyway
shall not cost that. Knows the few pipelines in which every character ends up in some token; for others nothing is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SPACE: Final = "▁"
TRIMMING: Final = (r"\A +", rf"[ {SPACE}]+\z", " {2,}")
"""How the importer writes SentencePiece's `remove_extra_whitespaces`: patterns that match spaces and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """`longest` characters at most go into one token, 0 where nothing is known; spaces count unless they may vanish."""

    longest: int
    counts_spaces: bool

    def fewest(self, text: str) -> int:
        """Give a number of tokens that `text` has at least."""
        if not self.longest:
            return 0
        spaces = 0 if self.counts_spaces else text.count(" ") + text.count(SPACE)
        return -(-(len(text) - spaces) // self.longest)


UNKNOWN: Final = Bound(longest=0, counts_spaces=False)


def bound(tokenizer_json: Mapping[str, Any]) -> Bound:
    """Read off a tokenizer.json how many characters a token can hold.

    Known for BPE over whole texts with a byte for every character that has no piece: then no token stands for more
    text than its own spelling.
    """
    model, added = tokenizer_json["model"], tokenizer_json.get("added_tokens") or []
    vocabulary = model.get("vocab") or {}
    has_bytes = model.get("byte_fallback") is True and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    takes_neighbours = any(token.get("lstrip") or token.get("rstrip") for token in added)
    steps = _steps(tokenizer_json.get("normalizer"))
    trims = [step for step in steps if _is_trimming(step)]
    is_known = all(_is_trimming(step) or _keeps_length(step) for step in steps)
    if not (model.get("type") == "BPE" and has_bytes and is_known) or takes_neighbours:
        return UNKNOWN
    if tokenizer_json.get("pre_tokenizer") is not None:
        return UNKNOWN
    longest = max(map(len, (*vocabulary, *(token["content"] for token in added))))
    return Bound(longest=longest, counts_spaces=not trims)


def _steps(normalizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if normalizer is None:
        return []
    if normalizer["type"] == "Sequence":
        return [step for inner in normalizer["normalizers"] for step in _steps(inner)]
    return [normalizer]


def _keeps_length(step: Mapping[str, Any]) -> bool:
    """Whether no text gets shorter by it: a prefix, or one character for another."""
    return step["type"] == "Prepend" or (
        step["type"] == "Replace" and step["pattern"] == {"String": " "} and len(step["content"]) == 1
    )


def _is_trimming(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Replace" and step["pattern"].get("Regex") in TRIMMING
