"""How many tokens a batch of chats may hold: less where memory ran out, and more again later."""

from __future__ import annotations

PATIENCE = 32
"""Full batches that go well before more is tried, at first."""


class Room:
    """The bound on a batch: its rows times the longest that one of them may become.

    Every failure doubles the number of full batches that must go well before twice as much is
    tried: memory that was short for a moment comes back, and what does not fit is tried ever less
    often.

    Attributes:
        tokens: The bound; None where nothing has failed yet.
    """

    def __init__(self) -> None:
        self.tokens: int | None = None
        self._patience = PATIENCE
        self._full = 0

    def failed(self, rows: int, longest: int) -> int:
        """Go down to the larger half of a batch that was too much; return what was allowed."""
        failed, half = rows * longest, (rows + 1) // 2 * longest
        old = failed if self.tokens is None else min(self.tokens, failed)
        self.tokens = min(old, half)
        self._patience *= 2
        self._full = 0
        return old

    def finished(self, rows: int, longest: int) -> int | None:
        """Count a batch that went well, if it was a full one.

        Returns:
            What was allowed, where more is now; None where nothing has changed.
        """
        old = self.tokens
        # One row goes whatever its length: it says nothing of what is beside it.
        if old is None or rows == 1 or 2 * rows * longest <= old:
            return None
        self._full += 1
        if self._full < self._patience:
            return None
        self.tokens, self._full = 2 * old, 0
        return old

    def forget(self) -> None:
        """Have no bound: the model is elsewhere."""
        self.tokens = None


__all__ = ["PATIENCE", "Room"]
