"""Exact search on any device of torch: ROCm, XPU, MPS, and CUDA where FAISS has no kernels.

Vectors lie on the device in 16 bits (32 on request), and are multiplied with the queries chunk by
chunk, so the scores never take more than `CHUNK_BYTES`. `rescore` makes the order true. Filters are
masks, and any `k` will do.

On GPUs it was not run or measured here; on torch's CPU device it was.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import is_out_of_memory, release
from langchain_gpu.search.base import (
    EFFORT,
    CannotSearch,
    Effort,
    Found,
    Matrix,
    Rows,
    VectorIndex,
)
from langchain_gpu.search.rescore import Bound, prove
from langchain_gpu.utils.errors import first_line
from langchain_gpu.utils.extras import require

torch: Any = require("torch", extra="local")

CHUNK_BYTES = 256 * 2**20  # of scores at once
LEAST_BYTES = 2**20  # below this, halving the chunks helps no more
SLICE = 65_536  # vectors copied at once
QUERIES = 1024  # multiplied at once: more make no product faster
LARGEST_HALF = 65_504.0


class TorchFlat:
    """A mirror on one device of torch."""

    def __init__(
        self,
        device: Device,
        *,
        dtype: Literal["auto", "float16", "float32"] = "auto",
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Nothing is copied yet.

        Args:
            device: Where to search.
            dtype: What vectors are stored in; the results are the same. `"auto"` takes 16 bits,
                but 32 on a CPU, which multiplies those faster.
            chunk_bytes: The most memory that scores may take; halved where it runs out.
        """
        self.name = f"{device} (torch)"
        self._device = device
        self._half = dtype == "float16" or (dtype == "auto" and device.kind != "cpu")
        self._chunk_bytes = chunk_bytes
        self._lock = Lock()
        self._mirrored: tuple[VectorIndex, int] | None = None
        self._vectors: Any = None  # [n, dimension]
        self._squares: Any = None  # [n], squared lengths, for l2
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._bound = Bound(0.0)

    def build(self, index: VectorIndex) -> None:
        """Copy `index` to the device, unless the mirror is fresh.

        Raises:
            CannotSearch: It does not fit, or the device failed.
        """
        with self._lock:
            if self._mirrored == (index, index.version):
                return
            self._drop()  # old before new
            refusal = self._copy(index)
            if refusal is not None:
                self._drop()
                release(self._device)
                raise refusal
            self._mirrored = index, index.version

    def search(
        self,
        queries: Matrix,
        k: int,
        allowed: Rows | None = None,
        effort: Effort = EFFORT,  # noqa: ARG002 - looks at everything
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given.

        Raises:
            CannotSearch: Memory ran out even for the smallest chunks, or the device failed.
        """
        with self._lock:
            assert self._mirrored is not None, "build comes first"  # noqa: S101 - for mypy
            index = self._mirrored[0]
            while True:
                found, refusal = self._attempt(index, queries, k, allowed)
                if found is not None:
                    return found
                release(self._device)  # outside `except`, where the traceback holds the tensors
                if refusal is not None:
                    raise refusal
                self._chunk_bytes //= 2

    def forget(self) -> None:
        """Give the memory of the copy back, and the index."""
        with self._lock:
            if self._mirrored is not None:
                self._drop()
                release(self._device)

    def _drop(self) -> None:
        self._mirrored = self._vectors = self._squares = None
        self._rows = np.empty(0, dtype=np.int64)

    def _attempt(
        self, index: VectorIndex, queries: Matrix, k: int, allowed: Rows | None
    ) -> tuple[Found | None, CannotSearch | None]:
        """Return what was found, or what stood in the way; neither means smaller chunks, please."""
        try:
            return self._prove(index, queries, k, allowed), None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                return None, _fault(error)
            if self._chunk_bytes > LEAST_BYTES:
                return None, None
            return None, CannotSearch(first_line(error), cause="memory")

    def _copy(self, index: VectorIndex) -> CannotSearch | None:
        rows = index.rows()
        try:
            if not (self._half and self._fill(index, rows, torch.float16)):
                self._fill(index, rows, torch.float32)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return CannotSearch(first_line(error), cause="build", lasting=True)
            return _fault(error)
        self._rows = rows
        return None

    def _fill(self, index: VectorIndex, rows: Rows, dtype: Any) -> bool:
        """Copy the vectors slice by slice; return False if a number is too large for `dtype`."""
        place = self._device.torch_name
        self._vectors = None
        self._vectors = torch.empty((len(rows), index.dimension), dtype=dtype, device=place)
        self._squares = torch.empty(len(rows), dtype=torch.float32, device=place)
        longest = moved = 0.0
        for start in range(0, len(rows), SLICE):
            part = index.vectors(rows[start : start + SLICE])
            if dtype is torch.float16:
                if np.abs(part).max(initial=0) > LARGEST_HALF:
                    return False
                change = (part.astype(np.float16).astype(np.float32) - part).astype(np.float64)
                moved = max(moved, float(np.linalg.norm(change, axis=1).max(initial=0)))
            squares = np.einsum("ij,ij->i", part, part, dtype=np.float64)
            longest = max(longest, float(squares.max(initial=0)) ** 0.5)
            stop = start + len(part)
            self._vectors[start:stop] = torch.from_numpy(part).to(place, dtype)
            self._squares[start:stop] = torch.from_numpy(squares.astype(np.float32)).to(place)
        self._bound = Bound(longest, moved)
        return True

    def _prove(self, index: VectorIndex, queries: Matrix, k: int, allowed: Rows | None) -> Found:
        """Take more candidates until the order of the nearest `k` is proven."""
        mask, count = None, len(self._rows)
        if allowed is not None:
            admitted = np.isin(self._rows, allowed, assume_unique=True)
            mask = torch.from_numpy(admitted).to(self._device.torch_name)
            count = int(admitted.sum())
        candidates = partial(self._candidates, mask=mask, l2=index.metric == "l2")
        bound = replace(self._bound, coarse=_is_coarse(self._vectors.dtype))
        return prove(index, queries, k, count=count, bound=bound, candidates=candidates)

    def _candidates(
        self, queries: Matrix, fetch: int, *, mask: Any, l2: bool
    ) -> tuple[NDArray[np.float64], Rows]:
        """Return rounded similarities and rows [queries, fetch], best first.

        A distance comes as its negative, so that higher is nearer everywhere.
        """
        count, dtype = self._vectors.shape[0], self._vectors.dtype
        # 16 bytes a number: of a chunk's scores, the same in float32, and what of them is kept.
        cells = self._chunk_bytes // 16
        height = max(1, min(len(queries), QUERIES, cells // (2 * fetch)))
        width = max(1, min(count, cells // height))
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        largest = lengths.max() * max(1.0, self._bound.longest)
        if dtype is torch.float16 and largest > LARGEST_HALF / 2:
            # Products would not fit in 16 bits: multiply in 32, a part of the vectors at a time.
            dtype = torch.float32
            width = max(1, min(width, self._chunk_bytes // (8 * queries.shape[1])))
        all_scores = np.empty((len(queries), fetch), dtype=np.float64)
        all_positions = np.empty((len(queries), fetch), dtype=np.int64)
        for first in range(0, len(queries), height):
            part = slice(first, first + height)
            query = torch.from_numpy(queries[part]).to(self._device.torch_name, dtype)
            scores, positions = self._best(query, fetch, width, mask=mask, l2=l2)
            all_scores[part] = scores.cpu().numpy()
            all_positions[part] = positions.cpu().numpy()
        if l2:
            all_scores -= (queries.astype(np.float64) ** 2).sum(1, keepdims=True)
        return all_scores, self._rows[all_positions]

    def _best(self, query: Any, fetch: int, width: int, *, mask: Any, l2: bool) -> tuple[Any, Any]:
        """Return the best scores and their positions, tensors of shape [queries, fetch].

        Args:
            query: A tensor of shape [queries, dimension], in what is multiplied in.
            fetch: How many of each query.
            width: Vectors that are multiplied at once.
            mask: Which vectors are admitted, a tensor of shape [n]; None for all of them.
            l2: Whether the scores are negative distances, but for the query's own square.
        """
        best = torch.empty((len(query), 0), device=query.device)
        places = torch.empty((len(query), 0), dtype=torch.int64, device=query.device)
        for start in range(0, self._vectors.shape[0], width):
            stop = start + width
            scores = (query @ self._vectors[start:stop].to(query.dtype).T).float()  # [q, width]
            if l2:
                scores = 2 * scores - self._squares[start:stop]
            if mask is not None:
                scores.masked_fill_(~mask[start:stop], -torch.inf)
            scores, kept = scores.topk(min(fetch, scores.shape[1]), dim=1)
            best, places = torch.cat([best, scores], 1), torch.cat([places, kept + start], 1)
            best, chosen = best.topk(min(fetch, best.shape[1]), dim=1)
            places = places.gather(1, chosen)
        return best, places


def _is_coarse(dtype: Any) -> bool:
    """Say whether products may be rounded to 11 bits now: the process may change that any time."""
    if dtype is torch.float16:
        return True
    try:
        precise: bool = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # TF32 was set by `fp32_precision`, of which this raises instead
        return True
    return not precise


def _fault(error: BaseException) -> CannotSearch:
    return CannotSearch(f"torch failed: {first_line(error)}", cause="fault", lasting=True)


__all__ = ["TorchFlat"]
