"""Exponential back-off for growing batches after memory ran out."""

from __future__ import annotations

INITIAL_WAIT = 32
"""Full batches that must succeed before the size is doubled, until the first failure.

As sizes double, growing back takes no more tokens than this many batches of the largest size.
"""


class Backoff:
    """Exponential back-off: counts full batches that succeed, and says when to try a larger one.

    Every failure doubles the count that is needed: memory that was short for a moment is used
    again soon, and a size that does not fit is tried ever less often.
    """

    def __init__(self) -> None:
        self._needed = INITIAL_WAIT
        self._successes = 0

    def failed(self) -> None:
        """Need twice as many successes from here."""
        self._needed *= 2
        self._successes = 0

    def succeeded(self) -> bool:
        """Count one; return whether a larger batch may be tried, and start counting again if so."""
        self._successes += 1
        if self._successes < self._needed:
            return False
        self._successes = 0
        return True


__all__ = ["INITIAL_WAIT", "Backoff"]
