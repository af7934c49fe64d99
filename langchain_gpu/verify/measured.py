"""Predicted and measured bytes, line by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from langchain_gpu.planner import ComponentPlan
from langchain_gpu.planner.terms import What

_LINES: tuple[What, ...] = ("weights", "kv_cache", "activations")


@dataclass(frozen=True, slots=True)
class Line:
    """One purpose: what the plan said, and what was allocated for it."""

    what: str
    predicted_bytes: int
    measured_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A component held against its plan.

    Attributes:
        name: The component.
        how: What was counted, in a sentence.
        lines: One per purpose.
        predicted_bytes: Of all lines.
        measured_bytes: Of all lines.
        rss_bytes: By how much the process grew; for the reader, since mapped weights are not in it.
    """

    name: str
    how: str
    lines: tuple[Line, ...]
    predicted_bytes: int
    measured_bytes: int
    rss_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self)


def compare(
    planned: ComponentPlan, measured: Mapping[str, int], *, how: str, rss: int | None
) -> Measured:
    """Put a plan beside what was measured. A device's own context is in neither."""
    lines = tuple(
        Line(what, planned.bytes_for(what), measured.get(what, 0))
        for what in _LINES
        if planned.bytes_for(what) or measured.get(what)
    )
    predicted = sum(line.predicted_bytes for line in lines)
    return Measured(
        planned.name, how, lines, predicted, sum(line.measured_bytes for line in lines), rss
    )


__all__ = ["Line", "Measured", "compare"]
