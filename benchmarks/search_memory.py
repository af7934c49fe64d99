"""The memory that documents and vectors take in one store, in a process of its own.

    python -m benchmarks.search_memory TASK.json

What is counted is the growth of the resident memory from the moment a small store has been used (so
that libraries and threads are there) to the moment everything that was only handed in is gone, and
the allocator has given back what nobody holds. Where vectors are `made` they are not handed in: the
embedding makes them when it is asked, as a model does.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.machine import peak_memory
from benchmarks.search_peers import (
    OURS,
    Given,
    Peer,
    Search,
    Vectors,
    build,
    make_texts,
    make_vectors,
)
from langchain_gpu import FAISSVectorStore
from langchain_gpu.hardware.cpu import process_memory


class Made(Given):
    """Vectors of texts that were never there before: a number of each text, and noise."""

    def __init__(self, dimension: int) -> None:
        super().__init__(np.ones((1, dimension), dtype=np.float32))

    def embed_to_array(self, texts: Sequence[str]) -> Vectors:
        """Return [texts, dimension], made now."""
        rng = np.random.default_rng(len(texts))
        rows = rng.standard_normal((len(texts), self.vectors.shape[1]), dtype=np.float32)
        rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        return rows


def resident() -> int:
    """Return the bytes of memory this process holds once it has let go of what nobody needs."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    held = process_memory()
    if not held:
        raise RuntimeError("this system does not say what a process holds")
    return held


def main() -> None:
    """Do the task named on the command line."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    name, count, dimension = task["name"], task["count"], task["dimension"]
    small = make_vectors(65_536, dimension, 2)[:100].copy()  # buffers of BLAS are there from now on
    build(name, small, make_texts(100)).search(small[:1], 1)
    before = resident()
    with suppress(OSError):  # Linux counts the peak from here; the small store took some too
        Path("/proc/self/clear_refs").write_text("5")
    if task.get("made"):
        texts = make_texts(count)
        needed = 4 * count * dimension + sum(len(text.encode()) for text in texts)
        ours = FAISSVectorStore(Made(dimension), index="flat", device="cpu")
        ours.add_texts(texts)
        store, last = Peer(OURS, ours, Search(ours), ours.save_local), small[:1]
        peak = peak_memory()
        del texts
    else:
        vectors, texts = make_vectors(count, dimension, 2), make_texts(count)
        needed = vectors.nbytes + sum(len(text.encode()) for text in texts)
        store = build(name, vectors, texts)
        peak = peak_memory()
        last = np.array(vectors[-1:])
        del vectors, texts
        embedding = getattr(store.store, "embeddings", None)
        if embedding is not None:  # it holds the vectors, as no real one does
            embedding.vectors = last
    held = resident() - before
    found = {"bytes": held, "needed": needed, "ratio": round(held / needed, 3)}
    print(json.dumps(found | {"peak_ratio": round((peak - before) / needed, 3)}))
    store.search(last, 1)


if __name__ == "__main__":
    main()
