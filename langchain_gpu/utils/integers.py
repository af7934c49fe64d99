"""Validation of whole numbers."""

from __future__ import annotations

import operator
from typing import Any


def at_least_one(name: str, value: Any) -> int:
    """Return a whole number.

    Args:
        name: What it is called, for messages.
        value: What was given.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is less than 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


__all__ = ["at_least_one"]
