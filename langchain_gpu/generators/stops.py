"""Stop strings in streamed text, and markers that are split between two pieces."""

from __future__ import annotations

from collections.abc import Sequence


def begun(text: str, marks: Sequence[str]) -> int:
    """Return how many characters at the end of `text` are the beginning of one of the marks."""
    longest = max(map(len, marks), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-length:]) for mark in marks):
            return length
    return 0


class StopText:
    """Lets text through up to the first stop string.

    A tail that could be the beginning of a stop string is held back until the next text decides.

    Attributes:
        hit: Whether a stop string was met; nothing comes through afterwards.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Take the next text and return what may be shown of everything so far."""
        if self.hit:
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        cut = len(text) - begun(text, self._stops)
        self._held = text[cut:]
        return text[:cut]

    def end(self) -> str:
        """Return what was held back: no more text comes."""
        held, self._held = self._held, ""
        return held


__all__ = ["StopText", "begun"]
