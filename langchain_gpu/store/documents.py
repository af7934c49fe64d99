"""The documents of a store, in columns sorted by row: id, text, metadata."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.store.batch import Batch, encode_metadata
from langchain_gpu.store.json_text import decode_line, encode


class Entry(NamedTuple):
    """A document as it is stored; `metadata` is JSON text."""

    id: str
    text: str
    metadata: str


class Documents:
    """A table. Rows only grow and are never used twice. Not safe to change from two threads."""

    def __init__(self, next_row: int = 0) -> None:
        """Start empty; the first document gets row `next_row`."""
        self.next_row = next_row
        self._rows = array("q")
        self._ids: list[str] = []
        self._texts: list[str] = []
        self._metadata: list[str] = []
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        """Count the documents."""
        return len(self._rows)

    def whole(self) -> Documents:
        """Return itself, as `MappedDocuments` returns all it has in memory."""
        return self

    def rows_of(self, ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the rows of those ids that are here."""
        rows = [row for row in map(self._row_of.get, ids) if row is not None]
        return np.array(rows, dtype=np.int64)

    def append(self, ids: Sequence[str], texts: Sequence[str], metadata: Sequence[str]) -> None:
        """Append documents whose ids are not here, under the next rows."""
        rows = range(self.next_row, self.next_row + len(ids))
        self._rows.extend(rows)
        self._ids.extend(ids)
        self._texts.extend(texts)
        self._metadata.extend(metadata)
        self._row_of.update(zip(ids, rows, strict=True))
        self.next_row = rows.stop

    def remove(self, rows: Iterable[int]) -> None:
        """Remove documents by row, all in one pass."""
        keep = bytearray(b"\x01" * len(self._rows))
        for row in rows:
            position = bisect_left(self._rows, row)
            keep[position] = 0
            del self._row_of[self._ids[position]]
        self._rows = array("q", compress(self._rows, keep))
        self._ids = list(compress(self._ids, keep))
        self._texts = list(compress(self._texts, keep))
        self._metadata = list(compress(self._metadata, keep))

    def pick(self, rows: Sequence[int]) -> Batch:
        """Return the documents of rows that are here.

        Raises:
            LookupError: One is not.
        """
        places = self._places(rows)
        ids, texts, metadata = self._ids, self._texts, self._metadata
        return Batch(
            [ids[place] for place in places],
            [texts[place] for place in places],
            [metadata[place] for place in places],
        )

    def pick_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of rows that are here, without reading their texts.

        Raises:
            LookupError: One is not.
        """
        ids = self._ids
        return [ids[place] for place in self._places(rows)]

    def get(self, id_: str) -> Entry | None:
        """Return the document of an id."""
        row = self._row_of.get(id_)
        if row is None:
            return None
        (place,) = self._places([row])
        return Entry(self._ids[place], self._texts[place], self._metadata[place])

    def rows(self) -> NDArray[np.int64]:
        """Return all rows, increasing."""
        return np.array(self._rows, dtype=np.int64)

    def columns(self) -> Batch:
        """Return all documents; the lists are copies, the strings are not."""
        return Batch(list(self._ids), list(self._texts), list(self._metadata))

    def ids(self) -> list[str]:
        """Return the ids by position, as a copy of the list."""
        return list(self._ids)

    def texts(self) -> list[str]:
        """Return the texts by position, as a copy of the list."""
        return list(self._texts)

    def metadata(self) -> list[str]:
        """Return the metadata by position, as a copy of the list."""
        return list(self._metadata)

    def _places(self, rows: Sequence[int]) -> Sequence[int]:
        column, count = self._rows, len(self._rows)
        first = column[0] if count else 0
        whole = count > 0 and column[-1] - first == count - 1
        if whole:  # nothing went, so the column need not be looked at: it is far from the cache
            places = [row - first for row in rows] if first else rows
        else:
            places = [bisect_left(column, row) for row in rows]
        here = not places or (min(places) >= 0 and max(places) < count)
        if here and not whole:
            here = all(column[place] == row for place, row in zip(places, rows, strict=True))
        if not here:
            raise LookupError(f"not all of {len(rows)} rows are here")
        return places

    def lines(self) -> Iterator[bytes]:
        """Yield each document as a line of JSON: row, id, text, metadata."""
        columns = zip(self._rows, self._ids, self._texts, self._metadata, strict=True)
        for row, id_, text, metadata in columns:
            line = (
                f'{{"row":{row},"id":{encode(id_)},"text":{encode(text)},"metadata":{metadata}}}\n'
            )
            try:
                yield line.encode()
            except UnicodeEncodeError:  # half a surrogate pair has no UTF-8, but has a JSON escape
                yield (json.dumps(json.loads(line)) + "\n").encode()


def parse(lines: Iterable[bytes], next_row: int) -> Documents:
    """Read what `Documents.lines` yielded.

    Raises:
        ValueError: A line is not such a document, or the lines do not go together; it names the
            line.
    """
    documents = Documents()
    for number, line in enumerate(lines, 1):
        try:
            row, entry = parse_line(line)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not a document: {error!r}") from error
        if row < documents.next_row or row >= next_row:
            raise ValueError(f"line {number} has row {row}, which is out of order")
        if documents.get(entry.id) is not None:
            raise ValueError(f"line {number} repeats the id {entry.id!r}")
        documents.next_row = row
        documents.append([entry.id], [entry.text], [entry.metadata])
    documents.next_row = next_row
    return documents


def parse_line(line: bytes) -> tuple[int, Entry]:
    """Read one line: its row, and its document.

    Raises:
        KeyError: It lacks a value.
        TypeError: A value is of another type.
        ValueError: It is not JSON, or its metadata is not.
        RecursionError: It is too deep.
    """
    values: dict[str, Any] = decode_line(line)
    row, id_, text = values["row"], values["id"], values["text"]
    if type(row) is not int or not isinstance(id_, str) or not isinstance(text, str):
        raise TypeError("row, id and text must be an integer and two strings")
    return row, Entry(id_, text, encode_metadata(values["metadata"], row))


__all__ = ["Documents", "Entry", "parse", "parse_line"]
