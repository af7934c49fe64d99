"""Index kinds: names, FAISS factory strings, and the bytes they need.

Nothing here imports FAISS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

Family = Literal["flat", "sq", "ivf", "hnsw"]

NAMES = ("auto", "flat", "fp16", "sq8", "ivf_flat", "ivf_sq8", "ivf_pq", "hnsw")
FAMILIES = (
    '"Flat"; scalar-quantized "SQ8", "SQ6", "SQ4", "SQfp16", "SQbf16"; "IVF<lists>," followed by '
    '"Flat", one of these, or "PQ<bytes>" or "PQ<pieces>x<bits>"; "HNSW<links>" alone or followed '
    'by ",Flat" or one of these'
)

AUTO_BYTES = 512 * 2**20  # of float32 vectors: what two cores read in some 30 ms
TRAIN_FROM = 50_000  # vectors from which on a named IVF kind is better than looking at all of them
SQ_TRAIN_FROM = 10_000  # to see the range of each dimension
SQ_MARGIN = 0.1  # of that range, on either side: what lies outside later is cut off
POINTS = 39  # vectors a centroid below which FAISS warns
SAMPLE = 64  # vectors a centroid that training looks at: more cost time and gain little
LINKS = 32  # of an HNSW node; twice as many on the lowest floor
PIECE = 4  # dimensions that a byte of `ivf_pq` stands for
GROWTH = 4  # an exact IVF index is made again when it should have this many times its lists

_BITS = {"SQ8": 8, "SQ6": 6, "SQ4": 4, "SQfp16": 16, "SQbf16": 16}
_SQ = "SQ8|SQ6|SQ4|SQfp16|SQbf16"
_SHAPE = re.compile(
    rf"(?P<plain>Flat|{_SQ})"
    rf"|IVF(?P<lists>[1-9]\d*),((?P<coding>Flat|{_SQ})|PQ(?P<pieces>[1-9]\d*)(x(?P<bits>\d+))?)"
    rf"|HNSW(?P<links>[1-9]\d*)(,(?P<stored>Flat|{_SQ}))?"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """An index that FAISS can make.

    Attributes:
        family: Decides how rows are kept and removed.
        coding: `"Flat"`, a scalar quantizer, or `"PQ"`.
        lists: Of an IVF index.
        links: Of an HNSW node.
        pieces: Sub-vectors of a product quantizer.
        bits: Of each of them.
    """

    family: Family
    coding: str
    lists: int = 0
    links: int = 0
    pieces: int = 0
    bits: int = 8

    def __str__(self) -> str:
        """Return the factory string."""
        coding = f"PQ{self.pieces}x{self.bits}" if self.coding == "PQ" else self.coding
        if self.family == "ivf":
            return f"IVF{self.lists},{coding}"
        if self.family == "hnsw":
            return f"HNSW{self.links}" + ("" if coding == "Flat" else f",{coding}")
        return coding

    @property
    def trained(self) -> bool:
        """Whether it must be trained. The range of a 16-bit float is always the same."""
        return self.family == "ivf" or self.coding in {"SQ8", "SQ6", "SQ4"}

    @property
    def centroids(self) -> int:
        """The most centroids that one clustering has to find."""
        return max(self.lists, 2**self.bits if self.coding == "PQ" else 0)

    def code_bytes(self, dimension: int) -> int:
        """Bytes of a vector."""
        if self.coding == "PQ":
            return (self.pieces * self.bits + 7) // 8
        return (_BITS.get(self.coding, 32) * dimension + 7) // 8


FLAT = Shape("flat", "Flat")


@lru_cache(maxsize=64)
def check(kind: str) -> None:
    """Refuse what is neither an index kind nor a factory string.

    Raises:
        ValueError: There is none; the message lists the known ones.
    """
    if kind not in NAMES:
        parse(kind)


@lru_cache(maxsize=64)
def parse(text: str) -> Shape:
    """Read a factory string.

    Raises:
        ValueError: It is of no known family.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"unknown index kind {text!r}; known: {', '.join(NAMES)}, and the FAISS factory "
            f"strings {FAMILIES}"
        )
    if match["plain"]:
        return Shape("flat" if match["plain"] == "Flat" else "sq", match["plain"])
    if match["links"]:
        if int(match["links"]) < 2:  # noqa: PLR2004 - the floors of a graph grow with its logarithm
            raise ValueError(f"{text!r}: a graph node has at least 2 links")
        return Shape("hnsw", match["stored"] or "Flat", links=int(match["links"]))
    lists = int(match["lists"])
    if match["coding"]:
        return Shape("ivf", match["coding"], lists=lists)
    bits = int(match["bits"] or 8)
    if not 1 <= bits <= 12:  # noqa: PLR2004 - 2 ** 12 centroids a piece: more is never trained
        raise ValueError(f"{text!r}: a product quantizer has 1 to 12 bits a piece, not {bits}")
    return Shape("ivf", "PQ", lists=lists, pieces=int(match["pieces"]), bits=bits)


def trained_from(kind: str, train_size: int | None = None) -> int:
    """Return from how many vectors on an index of this kind is trained; it is flat below."""
    if train_size is not None:
        return train_size
    if kind.startswith("ivf_"):
        return TRAIN_FROM
    shape = _plain(kind, 1)
    return max(POINTS * shape.centroids, SQ_TRAIN_FROM) if shape.trained else 0


def choose(kind: str, rows: int, dimension: int, train_size: int | None = None) -> Shape:
    """Return the shape that `kind` has for so many vectors.

    Args:
        kind: A name or a factory string.
        rows: How many vectors there are.
        dimension: Their width.
        train_size: Vectors to train from; None for the kind's own measure.

    Raises:
        ValueError: A product quantizer cannot divide the dimension.
    """
    if kind == "auto":
        if rows * dimension * 4 <= AUTO_BYTES:
            return FLAT
        kind = "ivf_flat"
    shape = _plain(kind, dimension)
    if kind.startswith("ivf_"):
        sample = rows if train_size is None else min(rows, train_size)
        lists = max(1, min(round(4 * rows**0.5), sample // POINTS))
        shape = Shape("ivf", shape.coding, lists=lists, pieces=shape.pieces, bits=shape.bits)
    if shape.coding == "PQ" and dimension % shape.pieces:
        raise ValueError(
            f"{kind!r} cuts a vector into {shape.pieces} pieces of equal length, which "
            f"{dimension} dimensions do not allow"
        )
    return shape if not shape.trained or rows >= trained_from(kind, train_size) else FLAT


def _plain(kind: str, dimension: int) -> Shape:
    """Return the shape of a kind, with the lists of a named one left open."""
    if kind == "ivf_pq":
        return Shape("ivf", "PQ", lists=1, pieces=_pieces(dimension))
    text = {
        "flat": "Flat",
        "fp16": "SQfp16",
        "sq8": "SQ8",
        "ivf_flat": "IVF1,Flat",
        "ivf_sq8": "IVF1,SQ8",
        "hnsw": f"HNSW{LINKS}",
    }.get(kind, kind)
    return parse(text)


def _pieces(dimension: int) -> int:
    """Return the divisor of `dimension` that comes nearest to a byte for every `PIECE` numbers."""
    divisors = (n for n in range(1, dimension + 1) if dimension % n == 0)
    return min(divisors, key=lambda n: abs(n - dimension / PIECE))


def belongs(kind: str, shape: Shape, dimension: int) -> bool:
    """Say whether an index of `kind` may look like `shape`."""
    if kind == "auto":
        return shape == FLAT or (shape.family, shape.coding) == ("ivf", "Flat")
    final = _plain(kind, dimension)
    if shape == FLAT:
        return final == FLAT or final.trained
    if kind.startswith("ivf_"):
        final = replace(final, lists=shape.lists)
    return shape == final


def check_arguments(kind: str, given: Mapping[str, int | None]) -> None:
    """Refuse arguments that mean nothing for a kind.

    Raises:
        ValueError: One means nothing; or `train_size` is smaller than what is to be found.
    """
    shape = _plain("ivf_flat" if kind == "auto" else kind, 1)
    means = {"nprobe": shape.family == "ivf", "ef_search": shape.family == "hnsw"}
    means["train_size"] = shape.trained
    for name, value in given.items():
        if value is not None and not means[name]:
            raise ValueError(f"{name} means nothing for an index of kind {kind!r}")
    size = given.get("train_size")
    if size is not None and size < shape.centroids:
        raise ValueError(
            f"train_size {size} is too small for {kind!r}, which has {shape.centroids} centroids "
            "to find: it needs at least as many vectors"
        )


def default_nprobe(lists: int) -> int:
    """Return how many lists are scanned unless told otherwise: a 16th, and at least 64.

    With 15,700 MiniLM vectors in 384 lists, 64 found 96 of 100 true neighbors; 16 found 86.
    """
    return min(lists, max(64, lists // 16))


def bytes_needed(kind: str, rows: int, dimension: int) -> int:
    """Return the bytes of an index of `kind` with so many vectors, in memory and on disk.

    | part | bytes |
    |---|---|
    | vectors | rows x 4 dimension; fp16: 2, sq8: 1; `ivf_pq`: about rows x dimension / 4 |
    | row numbers | rows x 8 |
    | links of HNSW | rows x (8 M + 4 M / (M - 1) + 12), M = 32: rows x 272 |
    | centroids of IVF | lists x 4 dimension |

    While vectors are trained from and moved, the flat ones and the new ones exist together.

    Args:
        kind: A name or a factory string.
        rows: How many vectors.
        dimension: Their width.

    Raises:
        ValueError: There is no such kind.
    """
    check(kind)
    shape = choose(kind, rows, dimension)
    needed = rows * (shape.code_bytes(dimension) + 8)
    if shape.coding in {"SQ8", "SQ6", "SQ4"}:
        needed += 8 * dimension
    if shape.family == "ivf":
        needed += shape.lists * (4 * dimension + 8)
    if shape.coding == "PQ":
        needed += 2**shape.bits * 4 * dimension
    if shape.family == "hnsw":
        links = shape.links
        needed += round(rows * (8 * links + 4 * links / max(links - 1, 1) + 12))
    return needed


__all__ = [
    "FAMILIES",
    "FLAT",
    "NAMES",
    "Family",
    "Shape",
    "belongs",
    "bytes_needed",
    "check",
    "check_arguments",
    "choose",
    "default_nprobe",
    "parse",
    "trained_from",
]
