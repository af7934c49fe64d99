"""JSON and CSV as lines of text that can be read, found and split anywhere."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from threading import Lock
from typing import Any

_DELIMITERS = ",;\t|"
# The limit of a field is the process's: one thread would restore it while another still reads.
_field_limit = Lock()


def json_text(text: str) -> str:
    """Turn a JSON document into `path: value` lines, so that each chunk says where it belongs.

    Lists of plain values share a line; a blank line parts the items of other lists.

    Raises:
        ValueError: Not valid JSON; the message holds the position.
    """
    return "\n".join(_lines(json.loads(text), "")).strip()


def json_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield row number (from 1) and text of each record of a JSON Lines file.

    Raises:
        ValueError: A line is not valid JSON; the message names it.
    """
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json_text(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not valid JSON: {error}") from error


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _lines(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _lines(item, f"{path}[{number}]")
            yield ""
    else:
        shown = ", ".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
        yield f"{path}: {shown}" if path else shown


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def csv_rows(text: str) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and `column: value` lines of each row below the first, the headings.

    The delimiter is whichever of comma, semicolon, tab and bar the headings hold most of. Empty
    fields are left out; fields beyond the headings are called by their number.
    """
    headings_line = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=headings_line.count)
    rows = _read_rows(text, delimiter)
    if not rows:
        return
    names = [name.strip() or f"column {i}" for i, name in enumerate(rows[0], start=1)]
    for number, row in enumerate(rows[1:], start=1):
        names += [f"column {i}" for i in range(len(names) + 1, len(row) + 1)]
        fields = [
            f"{name}: {value.strip()}"
            for name, value in zip(names, row, strict=False)
            if value.strip()
        ]
        if fields:
            yield number, "\n".join(fields)


def _read_rows(text: str, delimiter: str) -> list[list[str]]:
    with _field_limit:
        limit = csv.field_size_limit()
        csv.field_size_limit(max(limit, len(text)))  # a long field is no reason to refuse the file
        try:
            # Lines as a file has them: splitlines() would also cut at U+2028 and vertical tabs.
            return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        finally:
            csv.field_size_limit(limit)
