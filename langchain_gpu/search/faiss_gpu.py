"""Search by FAISS on NVIDIA GPUs: a mirror of the CPU index, rebuilt lazily after a change.

Its logic is tested against a stand-in that raises FAISS's own errors; it was not run or measured on
a GPU here. What it relies on was read in FAISS 1.15:

- A CUDA error inside FAISS (a wheel without kernels for the card, a driver fault) calls `abort()`:
  no `except` sees it. So the GPU is proven by a one-vector search in a child process first.
- Without cuVS, a GPU flat index ignores an `IDSelector` in silence: filters stay on the CPU.
- k and nprobe above the kernels' limit and a failed allocation raise RuntimeError.
- One resources object serves one thread at a time, and may take 1.5 GiB of temporary memory.
- For several GPUs, what has no GPU form is copied to the CPU in silence; for one it raises.
- 8-bit scalar quantization exists in IVF only, and not in cuVS; 16-bit floats become a flat index.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.search.base import (
    EFFORT,
    TEMPORARY_BYTES,
    CannotSearch,
    Effort,
    Found,
    Matrix,
    Mirrored,
    Rows,
    VectorIndex,
)
from langchain_gpu.search.kinds.bodies import SLICE, in_order
from langchain_gpu.search.rescore import Bound
from langchain_gpu.search.rescore import prove as prove_order
from langchain_gpu.utils.extras import require

faiss: Any = require("faiss", extra="faiss")

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
    """A mirror on one GPU, or in shards on several.

    Flat vectors in 16 bits take half the memory; `rescore` then makes the order true.
    """

    def __init__(
        self,
        *indices: int,
        dtype: Literal["auto", "float16", "float32"] = "auto",
        temporary: int = TEMPORARY_BYTES,
    ) -> None:
        """Take GPUs for this searcher.

        Args:
            indices: Of the GPUs, as CUDA counts them.
            dtype: What flat vectors are stored in. `"auto"` is float32.
            temporary: Bytes of each GPU that FAISS keeps to compute in.

        Raises:
            CannotSearch: A GPU does not work with the installed FAISS.
        """
        self.name = "cuda:" + ",".join(map(str, indices))
        self._devices = indices
        self._half = dtype == "float16"
        self._lock = Lock()
        self._mirror: Any = None
        self._source = Mirrored(None, None)
        self._bound: Bound | None = None  # of a mirror with rounded vectors
        self._mirrored: tuple[VectorIndex, int] | None = None
        for index in indices:
            if fault := prove(index):
                raise CannotSearch(fault, cause="fault", lasting=True)
        self._resources = [faiss.StandardGpuResources() for _ in indices]
        for resources in self._resources:
            resources.setTempMemory(temporary)

    def build(self, index: VectorIndex) -> None:
        """Copy `index` to the GPUs, unless the mirror is fresh.

        Raises:
            CannotSearch: It does not fit, or FAISS has no GPU form of it.
        """
        with self._lock:
            if self._mirrored == (index, index.version):
                return
            self._drop()  # the old copy goes before the new one comes
            source = index.mirrored()
            flat = isinstance(source.index, faiss.IndexFlat)
            try:
                self._mirror = self._copy(source.index, flat=flat)
            except RuntimeError as error:
                raise CannotSearch(_sentence(error), cause="build", lasting=True) from error
            rounded = (flat and self._half) or isinstance(source.index, faiss.IndexScalarQuantizer)
            self._bound = _measure(index, rounded=flat) if rounded else None
            # The CPU's own index is not kept from its owner: only what tells rows and lists is.
            self._source = source._replace(index=None)
            self._mirrored = (index, index.version)

    def search(
        self, queries: Matrix, k: int, allowed: Rows | None = None, effort: Effort = EFFORT
    ) -> Found:
        """Return the `k` nearest rows of each query.

        Raises:
            CannotSearch: A filter is given, k or nprobe is above what the kernels select, memory is
                short, or the scanned lists hold too few.
        """
        if allowed is not None:
            raise CannotSearch("FAISS has no filters on a GPU", cause="filter")
        with self._lock:
            assert self._mirrored is not None, "build comes first"  # noqa: S101 - for mypy
            index = self._mirrored[0]
            if self._bound is not None:
                bound, named = self._bound, self._named
                return prove_order(
                    index, queries, k, count=len(index), bound=bound, candidates=named
                )
            found = in_order(*self._ask(queries, k, effort.nprobe))
            if ((found.rows >= 0).sum(axis=1) < min(k, len(index))).any():
                raise CannotSearch(f"the scanned lists hold fewer than {k} vectors", cause="short")
        return found

    def forget(self) -> None:
        """Give the memory of the copy back, and the index."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._mirror = self._mirrored = self._bound = None
        self._source = Mirrored(None, None)

    def _copy(self, index: Any, *, flat: bool) -> Any:
        several = len(self._devices) > 1
        options = faiss.GpuMultipleClonerOptions() if several else faiss.GpuClonerOptions()
        # The tables of a product quantizer with many pieces fit into a GPU in 16 bits only.
        options.useFloat16 = self._half or isinstance(index, faiss.IndexIVFPQ)
        if isinstance(index, faiss.IndexIVFScalarQuantizer):
            options.use_cuvs = False
        if not several:
            return faiss.index_cpu_to_gpu(self._resources[0], self._devices[0], index, options)
        if not flat and not isinstance(index, faiss.IndexIVF):
            raise CannotSearch("FAISS has shards of flat and IVF indexes only", cause="build")
        options.shard = True
        return faiss.index_cpu_to_gpu_multiple_py(
            self._resources, index, options, list(self._devices)
        )

    def _named(self, queries: Matrix, number: int) -> tuple[NDArray[np.float64], Rows]:
        scores, rows = self._ask(queries, number, None)
        similarities = scores.astype(np.float64)
        assert self._mirrored is not None  # noqa: S101 - for mypy
        return (-similarities if self._mirrored[0].metric == "l2" else similarities), rows

    def _ask(self, queries: Matrix, k: int, nprobe: int | None) -> tuple[NDArray[np.float32], Rows]:
        parameters = None
        if own := self._source.nprobe:  # an index that is still flat has no use for the caller's
            lists = min(nprobe or own, self._source.lists)
            parameters = faiss.SearchParametersIVF(nprobe=lists)
        try:
            scores, found = self._mirror.search(queries, k, params=parameters)
        except RuntimeError as error:
            cause = next((name for name in _LIMITS if _LIMITS[name] in str(error)), "search")
            raise CannotSearch(_sentence(error), cause=cause) from error
        rows = self._source.rows
        if rows is not None:
            here = found >= 0
            found = np.where(here, rows[np.where(here, found, 0)], -1)
        return scores, found


_LIMITS = {"k": "max-K selection", "nprobe": "nprobe"}


def _measure(index: VectorIndex, *, rounded: bool) -> Bound:
    """Return what bounds the error of 16-bit scores; `rounded` if storing moved the vectors."""
    rows = index.rows()
    longest = moved = 0.0
    for start in range(0, len(rows), SLICE):
        part = index.vectors(rows[start : start + SLICE])
        longest = max(longest, float(np.linalg.norm(part, axis=1).max(initial=0)))
        if rounded:
            with np.errstate(over="ignore"):  # infinite: nothing is proven, and the CPU answers
                change = part.astype(np.float16).astype(np.float32) - part
            moved = max(moved, float(np.linalg.norm(change, axis=1).max(initial=0)))
    return Bound(longest, moved, coarse=True)


def _sentence(error: RuntimeError) -> str:
    """Cut FAISS's `Error in FUNCTION at FILE:LINE: Error: 'CONDITION' failed: ` off its message."""
    return str(error).rpartition("failed: ")[2].strip()


__all__ = ["FaissGPU", "has_gpu_build", "prove"]
