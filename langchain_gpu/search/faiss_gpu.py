"""Search by FAISS on an NVIDIA GPU: a mirror of the CPU index, rebuilt lazily after a change.

Its logic is tested against a stand-in that raises FAISS's own errors; it was not run or measured on
a GPU here. What it relies on was read in FAISS 1.15:

- A CUDA error inside FAISS (a wheel without kernels for the card, a driver fault) calls `abort()`:
  no `except` sees it. So the GPU is proven by a one-vector search in a child process first.
- Without cuVS, a GPU flat index ignores an `IDSelector` in silence: filters stay on the CPU.
- k above the kernels' limit and a failed allocation raise RuntimeError.
- One resources object serves one thread at a time, and may take 1.5 GiB of temporary memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from langchain_gpu._extras import require
from langchain_gpu.search.base import (
    EFFORT,
    CannotSearch,
    Effort,
    Found,
    Matrix,
    Rows,
    VectorIndex,
)

faiss: Any = require("faiss", extra="faiss")

TEMPORARY_BYTES = 256 * 2**20
PROOF_SECONDS = 120  # the first CUDA call of a cold machine may take a minute

_PROOF = """
import sys
import faiss, numpy
index, vector = int(sys.argv[1]), numpy.ones((1, 8), dtype="float32")
assert index < faiss.get_num_gpus(), f"FAISS sees {faiss.get_num_gpus()} GPUs"
flat = faiss.IndexFlatIP(8)
flat.add(vector)
resources = faiss.StandardGpuResources()
resources.setTempMemory(2**20)
_, rows = faiss.index_cpu_to_gpu(resources, index, flat).search(vector, 1)
assert rows[0, 0] == 0, "a search for the only vector did not find it"
"""


def has_gpu_build() -> bool:
    """Say whether the installed FAISS was built for GPUs. Asks no driver."""
    return hasattr(faiss, "StandardGpuResources")


@cache
def prove(index: int) -> str | None:
    """Search one vector on GPU `index` in a child process; return what went wrong, or None."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(  # noqa: S603 - our own interpreter and script
            [sys.executable, "-c", _PROOF, str(index)],
            capture_output=True,
            check=False,
            env=environment,
            text=True,
            timeout=PROOF_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a trial search could not be run: {error}"
    if child.returncode == 0:
        return None
    said = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
    return f"a trial search failed: {said[-1]}"


class FaissGPU:
    """A mirror on one GPU. Positions there stand for rows here."""

    def __init__(self, index: int) -> None:
        """Take GPU `index` for this searcher.

        Raises:
            CannotSearch: The GPU does not work with the installed FAISS.
        """
        self.name = f"cuda:{index}"
        self._device = index
        self._lock = Lock()
        self._mirror: Any = None
        self._rows: Rows | None = None
        self._mirrored: tuple[VectorIndex, int] | None = None
        if fault := prove(index):
            raise CannotSearch(fault, cause="fault", lasting=True)
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(TEMPORARY_BYTES)

    def build(self, index: VectorIndex) -> None:
        """Copy `index` to the GPU, unless the mirror is fresh.

        Raises:
            CannotSearch: It does not fit.
        """
        with self._lock:
            if self._mirrored == (index, index.version):
                return
            source = index.mirrored()
            if source is None:
                raise CannotSearch("FAISS walks HNSW graphs on the CPU only", cause="hnsw")
            self._mirror = self._mirrored = None  # the old copy goes before the new one comes
            try:
                self._mirror = faiss.index_cpu_to_gpu(self._resources, self._device, source.index)
            except RuntimeError as error:
                raise CannotSearch(_sentence(error), cause="build", lasting=True) from error
            self._rows = source.rows
            self._mirrored = (index, index.version)

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query.

        Raises:
            CannotSearch: A filter is given, k is above what the kernels select, or memory is short.
        """
        if allowed is not None:
            raise CannotSearch("FAISS filters on the CPU only", cause="filter")
        with self._lock:
            try:
                scores, positions = self._mirror.search(queries, k)
            except RuntimeError as error:
                cause = "k" if "max-K selection" in str(error) else "search"
                raise CannotSearch(_sentence(error), cause=cause) from error
            if self._rows is None:
                return Found(scores, positions)
            found = positions >= 0
            rows = np.where(found, self._rows[np.where(found, positions, 0)], -1)
        return Found(scores, rows)


def _sentence(error: RuntimeError) -> str:
    """Cut FAISS's `Error in FUNCTION at FILE:LINE: Error: 'CONDITION' failed: ` off its message."""
    return str(error).rpartition("failed: ")[2].strip()


__all__ = ["FaissGPU", "has_gpu_build", "prove"]
