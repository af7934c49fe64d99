"""Documents in a memory-mapped file: a line is parsed when it is needed.

Beside the lines lies a table, `places-<generation>.npy`: four columns of int64 [4, n].

| column | |
|---|---|
| 0 | rows, increasing |
| 1 | where each line starts, in bytes |
| 2 | digests of the ids, increasing |
| 3 | whose digest it is: a position in the first two columns |

A search reads the lines it found, an id is looked up by bisection, and what needs every document
(a filter, words, a change) reads them all into memory, once.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.store.batch import Batch
from langchain_gpu.store.documents import Documents, Entry, parse, parse_line
from langchain_gpu.store.errors import DamagedStoreError
from langchain_gpu.store.manifest import REMEDY

Table = NDArray[np.int64]  # [4, n]
Rows = NDArray[np.int64]  # [n]


class MappedDocuments:
    """The documents of a saved store, as `Documents` has them but for changes.

    The file may be removed while it is open, as the next save of another process does; on POSIX its
    contents stay until they are closed.
    """

    def __init__(self, lines: Path, places: Path, next_row: int) -> None:
        """Open both files; no line is read.

        Args:
            lines: What `Documents.lines` yielded.
            places: What `write_places` wrote.
            next_row: The row the next document gets.

        Raises:
            EOFError: The table is empty.
            ValueError: The table is none, or its numbers cannot be places in the lines.
            OSError: A file cannot be opened.
        """
        self.next_row = next_row
        self._path = lines
        with lines.open("rb") as file:
            size = file.seek(0, 2)
            self._lines: mmap.mmap | bytes = b""  # an empty file cannot be mapped
            if size:
                self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = np.load(places, mmap_mode="r", allow_pickle=False)
        if table.dtype != np.int64 or table.ndim != 2 or len(table) != 4:  # noqa: PLR2004
            raise ValueError(f"{places.name} is not a table of places")
        self._rows, self._starts, self._digests, self._whose = np.asarray(table)
        self._ends = np.append(self._starts, size)[1:]
        rows, starts = self._rows, self._starts
        whole = len(rows) == 0 or (starts[0] == 0 and rows[0] >= 0 and rows[-1] < next_row)
        if not whole or (np.diff(rows) <= 0).any() or (self._ends <= starts).any():
            raise ValueError(f"{places.name} does not belong to {lines.name}")
        self._whole: Documents | None = None
        self._reading = Lock()

    def __len__(self) -> int:
        """Count the documents."""
        return len(self._rows)

    def whole(self) -> Documents:
        """Return all documents, in memory, where they can be changed.

        The first call reads them, which takes seconds where they are many: hold no lock that
        writers wait for.

        Raises:
            DamagedStoreError: A line is not a document, or they do not go together.
        """
        with self._reading:
            if self._whole is None:
                try:
                    documents = parse(self.lines(), self.next_row)
                except ValueError as error:
                    raise _damaged(self._path, error) from error
                if not np.array_equal(documents.rows(), self._rows):
                    raise _damaged(self._path, "its rows are not those of its table")
                self._whole = documents
            return self._whole

    def rows_of(self, ids: Iterable[str]) -> Rows:
        """Return the rows of those ids that are here."""
        found = [found[0] for found in map(self._find, ids) if found is not None]
        return np.array(self._rows[found], dtype=np.int64)

    def pick(self, rows: Sequence[int]) -> Batch:
        """Return the documents of rows that are here.

        Raises:
            LookupError: One is not.
            DamagedStoreError: A line is not the document that it should be.
        """
        if self._whole is not None:
            return self._whole.pick(rows)
        wanted = np.array(rows, dtype=np.int64)
        places = np.searchsorted(self._rows, wanted)
        here = places < len(self._rows)
        if not here.all() or (self._rows[places] != wanted).any():
            raise LookupError(f"not all of {len(rows)} rows are here")
        entries = list(map(self._read, places.tolist()))
        return Batch(
            [entry.id for entry in entries],
            [entry.text for entry in entries],
            [entry.metadata for entry in entries],
        )

    def pick_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of rows that are here; see `pick`."""
        return self.pick(rows).ids

    def get(self, id_: str) -> Entry | None:
        """Return the document of an id."""
        found = self._find(id_)
        return None if found is None else found[1]

    def rows(self) -> Rows:
        """Return all rows, increasing."""
        return np.array(self._rows)

    def digests(self) -> Rows:
        """Return the digest of each id, by position."""
        digests = np.empty(len(self), dtype=np.int64)
        digests[self._whose] = self._digests
        return digests

    def columns(self) -> Batch:
        """Return all documents, read into memory."""
        return self.whole().columns()

    def texts(self) -> list[str]:
        """Return the texts by position, all read into memory."""
        return self.whole().texts()

    def metadata(self) -> list[str]:
        """Return the metadata by position, all read into memory."""
        return self.whole().metadata()

    def lines(self) -> Iterator[bytes]:
        """Yield each line as it is in the file."""
        lines = self._lines
        for start, end in zip(self._starts.tolist(), self._ends.tolist(), strict=True):
            yield lines[start:end]

    def _find(self, id_: str) -> tuple[int, Entry] | None:
        """Look up an id. Different ones may share a digest: the line decides."""
        wanted = digest(id_)
        here = int(np.searchsorted(self._digests, wanted))
        while here < len(self) and self._digests[here] == wanted:
            position = int(self._whose[here])
            if not 0 <= position < len(self):
                raise _damaged(self._path, f"its table has the position {position}")
            entry = self._read(position)
            if entry.id == id_:
                return position, entry
            here += 1
        return None

    def _read(self, position: int) -> Entry:
        try:
            row, entry = parse_line(self._lines[self._starts[position] : self._ends[position]])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise _damaged(
                self._path, f"line {position + 1} is not a document: {error!r}"
            ) from error
        if row != self._rows[position]:
            raise _damaged(self._path, f"line {position + 1} has row {row}, not its table's")
        return entry


def digest(id_: str) -> int:
    """Return 64 bits that are the same in every process, as a signed number."""
    found = hashlib.blake2b(id_.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)


def digests(documents: Documents | MappedDocuments) -> Rows:
    """Return the digest of each id, by position."""
    if isinstance(documents, MappedDocuments):
        return documents.digests()
    made = map(partial(hashlib.blake2b, digest_size=8), map(_encoded, documents.ids()))
    joined = b"".join([each.digest() for each in made])
    return np.frombuffer(joined, dtype="<i8").astype(np.int64, copy=False)


def write_places(path: Path, documents: Documents | MappedDocuments, ends: Rows) -> None:
    """Write the table that goes with the lines of documents.

    Args:
        path: A file that ends with `.npy`.
        documents: The documents.
        ends: [n], where each line ends, in bytes.
    """
    table = np.zeros((4, len(documents)), dtype=np.int64)
    table[0] = documents.rows()
    table[1, 1:] = ends[:-1]
    found = digests(documents)
    table[3] = np.argsort(found, kind="stable")
    table[2] = found[table[3]]
    with path.open("wb") as file:
        np.save(file, table, allow_pickle=False)


def _encoded(id_: str) -> bytes:
    return id_.encode(errors="surrogatepass")


def _damaged(path: Path, why: object) -> DamagedStoreError:
    return DamagedStoreError(f"{path}: {why}; {REMEDY}")


__all__ = ["MappedDocuments", "digest", "digests", "write_places"]
