"""The first line of an error's message, for other messages."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def named_line(error: BaseException) -> str:
    """Return the name of an error's type, with the first line of its message if it has one."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


__all__ = ["first_line", "named_line"]
