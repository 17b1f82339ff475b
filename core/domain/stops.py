"""Stop strings, found in text that comes in pieces."""

from collections.abc import Sequence


class StopFinder:
    """Pass text on up to the first stop string, which is not passed on itself.

    Text that may yet turn out to be the start of a stop string is held back until it can't.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Take the next piece; give what is certain to come before any stop string."""
        if self.found:
            return ""
        seen = self._held + text
        places = [place for stop in self._stops if (place := seen.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return seen[: min(places)]
        keep = max((_overlap(seen, stop) for stop in self._stops), default=0)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def finish(self) -> str:
        """Give what is still held back, once no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
