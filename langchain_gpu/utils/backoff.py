"""When a batch may be larger again, after memory ran out."""

from __future__ import annotations

PATIENCE = 32
"""Full batches that go well before more is tried, at first.

As the steps double, the whole way up takes no more tokens than so many batches of the largest size.
"""


class Patience:
    """Counts the full batches that go well.

    Every failure doubles how many must: what was short for a moment comes back, and what does not
    fit is tried ever less often.
    """

    def __init__(self) -> None:
        self._wanted = PATIENCE
        self._gone_well = 0

    def failed(self) -> None:
        """Ask for twice as many from here."""
        self._wanted *= 2
        self._gone_well = 0

    def enough(self) -> bool:
        """Count one more; return whether more may be tried, and begin again if so."""
        self._gone_well += 1
        if self._gone_well < self._wanted:
            return False
        self._gone_well = 0
        return True


__all__ = ["PATIENCE", "Patience"]
