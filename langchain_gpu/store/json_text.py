"""JSON text for metadata, with dates.

Metadata is kept as JSON text: a third of a dictionary's memory, nothing for the garbage collector
to walk, and every reader gets a fresh copy. JSON has no dates, so they are written as
`{"$datetime": "2026-01-31T12:00:00"}` and `{"$date": "2026-01-31"}`, in ISO 8601.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import numpy as np

_READERS: dict[str, Callable[[str], date]] = {
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
}
_MARK = '{"$date'  # what both begin with; looking for it is cheaper than a call for each dictionary


def decode(text: str) -> Any:
    """Return a fresh value.

    Raises:
        ValueError: The text does not begin with JSON.
        RecursionError: It is too deep.
    """
    return (_decode_dates if _MARK in text else _decode)(text)[0]


def decode_line(line: bytes) -> Any:
    """Return the value of a line that holds nothing else.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is too deep.
    """
    return json.loads(line, object_hook=_date if _MARK.encode() in line else None)


def _written(value: Any) -> Any:
    """Return what JSON can hold in place of a value that it cannot."""
    if isinstance(value, datetime):
        return {"$datetime": value.isoformat()}
    if isinstance(value, date):
        return {"$date": value.isoformat()}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _date(found: dict[str, Any]) -> Any:
    """Return the date that a dictionary stands for, else the dictionary."""
    if len(found) == 1:
        ((key, value),) = found.items()
        if key in _READERS and isinstance(value, str):
            try:
                return _READERS[key](value)
            except ValueError:  # somebody's own dictionary
                return found
    return found


encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_written
).encode
_decode = json.JSONDecoder().raw_decode
_decode_dates = json.JSONDecoder(object_hook=_date).raw_decode


__all__ = ["decode", "decode_line", "encode"]
