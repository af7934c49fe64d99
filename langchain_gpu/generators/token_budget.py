"""How many tokens a batch of chats may hold: halved when memory runs out, doubled later."""

from __future__ import annotations

from langchain_gpu.utils.backoff import Backoff


class TokenBudget:
    """The bound on a batch: its rows times the longest that one may become; grows by `Backoff`.

    Attributes:
        tokens: The bound; None where nothing has failed yet.
    """

    def __init__(self) -> None:
        self.tokens: int | None = None
        self._backoff = Backoff()

    def failed(self, rows: int, longest: int) -> int:
        """Go down to the larger half of a batch that was too much; return what was allowed."""
        failed, half = rows * longest, (rows + 1) // 2 * longest
        old = failed if self.tokens is None else min(self.tokens, failed)
        self.tokens = min(old, half)
        self._backoff.failed()
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
        if not self._backoff.succeeded():
            return None
        self.tokens = 2 * old
        return old

    def forget(self) -> None:
        """Have no bound: the model is elsewhere."""
        self.tokens = None


__all__ = ["TokenBudget"]
