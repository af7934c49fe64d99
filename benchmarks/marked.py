"""Pieces of the sections that every benchmark has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NONE = "–"  # noqa: RUF001 - what a table has where there is no figure


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table; the first line is its head."""
    head, *body = [f"| {' | '.join(line)} |".replace("|  |", "| |", 1) for line in lines]
    return "\n".join([head, "|---" * len(lines[0]) + "|", *body])


def left_out(skipped: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the sentence on who did not take part and why; nothing where everybody did."""
    named = "; ".join(f"{each['name']} ({each['reason']})" for each in skipped)
    return [f"Left out of this run: {named}."] if named else []


def number(value: float | None, form: str) -> str:
    """Return a number in a format; `NONE` where there is none."""
    return NONE if value is None else format(value, form)


def percent(value: float | None) -> str:
    """Return a share in percent; `NONE` where there is none."""
    return number(value, ".0%")


__all__ = ["NONE", "left_out", "number", "percent", "table"]
