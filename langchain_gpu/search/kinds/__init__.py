"""Index kinds by name, or by a FAISS factory string.

| kind | finds | bytes of a 384-wide vector | removes | trains | take it for |
|---|---|---|---|---|---|
| `"flat"` | the true neighbors | 1,544 | yes | no | up to some 350,000 vectors; a GPU: millions |
| `"fp16"` | nearly always the same | 776 | yes | no | as flat, with half the memory |
| `"sq8"` | 99 of 100 | 392 | yes | yes | as flat, with a quarter of the memory |
| `"ivf_flat"` | 96 of 100 | 1,544 | yes | yes | a million and more that come and go |
| `"ivf_sq8"` | 96 of 100 | 392 | yes | yes | the same, with a quarter of the memory |
| `"ivf_pq"` | 85 of 100 | 104 | yes | yes | what fits in memory in no other form |
| `"hnsw"` | 99 of 100 | 1,816 | marks only | no | many searches, few changes; slow to build |
| `"auto"` | | | | | flat up to 512 MiB of vectors, then `"ivf_flat"` |

What each finds was measured with 15,700 vectors of all-MiniLM-L6-v2 (docstrings) and 300 queries:
how many of the true 10 nearest. Other vectors give other figures; `nprobe` and `ef_search` raise
them. Beside the vectors and their row numbers, IVF takes its centroids.

A kind that is trained keeps its vectors flat, and so finds the true neighbors, until there are
enough to train from: 50,000 for a named IVF kind, 10,000 for `"sq8"`, `train_size` where it is
given. `bytes_needed` says what an index takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

from langchain_gpu.search.base import EFFORT, Effort, Matrix, Metric, VectorIndex
from langchain_gpu.search.kinds import shapes
from langchain_gpu.search.kinds.shapes import NAMES, bytes_needed
from langchain_gpu.utils.extras import require


class Kind(Protocol):
    """What makes indexes of a kind."""

    def create(self, dimension: int, metric: Metric) -> VectorIndex:
        """Return an empty index.

        Raises:
            ValueError: The kind cannot hold vectors of this width.
        """

    def allocate(self, count: int, dimension: int, metric: Metric) -> Matrix:
        """Return [count, dimension] to write the first vectors of an index to.

        An index takes it over without a copy, if it can: it is not to be used after it was added.
        """

    def check(self, effort: Effort) -> None:
        """Refuse an effort that an index of this kind cannot search with.

        Raises:
            ValueError: A number means nothing for it, or is below 1.
        """

    def load(self, path: Path, metric: Metric, *, mapped: bool = False) -> VectorIndex:
        """Read an index from `path`, or leave its vectors there until it is changed.

        Raises:
            ValueError: The file holds another kind of index, or one of another metric.
            RuntimeError: FAISS cannot read it.
        """


def get(
    kind: str, *, train_size: int | None = None, seed: int = 0, effort: Effort = EFFORT
) -> Kind:
    """Return the kind called `kind`.

    Args:
        kind: One of `NAMES`, or a FAISS factory string.
        train_size: Vectors to train from; the index stays flat until there are so many.
        seed: Decides which vectors training looks at, and where it starts.
        effort: How far a search looks that does not say it.

    Raises:
        ValueError: There is no such kind (the message lists the known ones), or an argument does
            not go with it.
        ImportError: FAISS is not installed; the message holds the pip line.
    """
    shapes.check(kind)
    require("faiss", extra="faiss")
    from langchain_gpu.search.kinds.index import FaissKind

    return cast("Kind", FaissKind(kind, train_size, seed, effort))


__all__ = ["NAMES", "Kind", "bytes_needed", "get"]
