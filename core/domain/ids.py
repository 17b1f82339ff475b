"""Ids: a prefix and a UUIDv7 in 26 Crockford characters, so that id order is creation order.

An id is a name, never a secret: whoever knows one still needs a key of its project.
"""

import os
import re
import threading
import time
from typing import Final, Literal

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
Prefix = Literal["ds", "job", "ad", "base", "key", "proj", "gen", "wk"]
PATTERN: Final = re.compile(rf"(?:ds|job|ad|base|key|proj|gen|wk)_[0-7][{ALPHABET}]{{25}}")

_lock = threading.Lock()
_last_tick = 0


def new(prefix: Prefix) -> str:
    """Make an id that sorts after every earlier one of this process.

    Source: RFC 9562, section 5.7; the 12 bits of `rand_a` carry a sub-millisecond counter (method 3).
    """
    tick = _next_tick()
    milliseconds, fraction = tick >> 12, tick & 0xFFF
    random_62 = int.from_bytes(os.urandom(8)) >> 2
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random_62
    return f"{prefix}_{_encode(value)}"


def is_id(text: str, prefix: Prefix) -> bool:
    """Say whether `text` has the form of an id with this prefix."""
    return text.startswith(prefix + "_") and PATTERN.fullmatch(text) is not None


def looks_like_id(text: str) -> bool:
    """Say whether `text` starts as an id does, well formed or not; names may not."""
    return text.partition("_")[0] in {"ds", "job", "ad", "base", "key", "proj", "gen", "wk"} and "_" in text


def _next_tick() -> int:
    """Count 1/4096 milliseconds since 1970, never the same twice."""
    global _last_tick  # noqa: PLW0603  (one counter a process is the point)
    with _lock:
        _last_tick = max(_last_tick + 1, time.time_ns() * 4096 // 1_000_000)
        return _last_tick


def _encode(value: int) -> str:
    return "".join(ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
