"""Stop strings for engines that know only tokens."""

from __future__ import annotations

from collections.abc import Sequence


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
        cut = len(text) - self._open_tail(text)
        self._held = text[cut:]
        return text[:cut]

    def end(self) -> str:
        """Return what was held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _open_tail(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


__all__ = ["StopText"]
