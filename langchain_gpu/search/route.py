"""The choice of a searcher, with its reason, and its fallbacks down to the CPU."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from threading import Lock
from typing import Literal

from langchain_gpu.events import Listener, warn_fallback
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, device_of, select_device
from langchain_gpu.hardware.gpu import visible_nvidia
from langchain_gpu.hardware.names import as_names
from langchain_gpu.hardware.nvidia import read_nvidia
from langchain_gpu.search.base import (
    EFFORT,
    TEMPORARY_BYTES,
    CannotSearch,
    Effort,
    Found,
    Matrix,
    Rows,
    Searcher,
    VectorIndex,
)
from langchain_gpu.search.faiss_cpu import FaissCPU
from langchain_gpu.utils.extras import install_line, is_installed

DType = Literal["auto", "float16", "float32"]

_NAMES = re.compile(r"auto|cpu|(?P<kind>cuda|rocm|xpu|mps)(:(?P<index>\d+))?")
_CPU_BUILD = "the installed FAISS is a CPU build"
_GRAPH = CannotSearch("an HNSW graph is walked on the CPU only", cause="graph")


class Route:
    """Searches on the device that was asked for; what it cannot do, the next searcher does.

    On NVIDIA cards FAISS comes first, then torch where the process has loaded it (it filters and
    takes any `k`, with a mirror of its own that is made when it is first needed); on other GPUs,
    and where FAISS cannot use the card, torch. The CPU index, which is saved, is last. Each cause
    of a refusal is reported once, by `report`: a search runs under the store's lock, where neither
    a listener nor a warnings hook may be called.

    Importing torch takes seconds, and its context some hundred MiB: `"auto"` never does it.
    """

    def __init__(
        self,
        device: str | Sequence[str] = "auto",
        listener: Listener | None = None,
        *,
        dtype: DType = "auto",
        temporary: int = TEMPORARY_BYTES,
    ) -> None:
        """Nothing is probed yet.

        Args:
            device: `"auto"`, `"cpu"`, a GPU such as `"cuda:0"`, or several `cuda` ones, which share
                the vectors.
            listener: Receives fallbacks.
            dtype: What mirrors store flat vectors in; the results are the same.
            temporary: Bytes of each GPU that FAISS keeps to compute in.

        Raises:
            ValueError: `device` is none of these, or there is no such dtype.
        """
        device = as_names(device)
        names = [device] if isinstance(device, str) else list(device)
        for name in names:
            if not _NAMES.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a device: write auto, cpu, cuda, or cuda with an index, as "
                    "in cuda:1"
                )
        if not names or (len(names) > 1 and not _distinct_cards(names)):
            raise ValueError(f"only different cuda devices can share an index, not {names}")
        if dtype not in {"auto", "float16", "float32"}:
            raise ValueError(f"dtype {dtype!r} is not one of auto, float16, float32")
        self._wanted = tuple(names)
        self._dtype: DType = dtype
        self._temporary = temporary
        self._listener = listener
        self._cpu = FaissCPU()
        self._mirrors: tuple[Searcher, ...] = ()
        self._device: Device | None = None
        self._reported: set[tuple[str, str]] = set()
        self._unreported: list[tuple[str, str, str]] = []  # (source, target, reason)
        self._lock = Lock()

    @property
    def device(self) -> Device:
        """Where searches run, with the reason. Looked up when it is first needed."""
        device = self._chosen()
        self.report()
        return device

    def report(self) -> None:
        """Tell what fell back since the last time: a `FallbackWarning`, a `FellBack`."""
        if not self._unreported:  # as after nearly every search
            return
        with self._lock:
            unreported, self._unreported = self._unreported, []
        for source, target, reason in unreported:
            warn_fallback(
                self._listener, what="search", source=source, target=target, reason=reason
            )

    def search(
        self,
        index: VectorIndex,
        queries: Matrix,
        k: int,
        allowed: Rows | None = None,
        effort: Effort = EFFORT,
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given."""
        if self._device is None:
            self._chosen()
        mirrors = self._mirrors
        if mirrors and not index.portable:
            self._pass_on(mirrors[0], self._cpu, _GRAPH)
            mirrors = ()
        for searcher, following in pairwise((*mirrors, self._cpu)):
            try:
                searcher.build(index)
                return searcher.search(queries, k, allowed, effort)
            except CannotSearch as refusal:
                self._pass_on(searcher, following, refusal)
        self._cpu.build(index)
        return self._cpu.search(queries, k, allowed, effort)

    def forget(self) -> None:
        """Give the memory of mirrors back, for an index that nobody can find anything in."""
        for searcher in self._mirrors:
            searcher.forget()

    def _chosen(self) -> Device:
        with self._lock:
            if self._device is None:
                self._device = self._choose()
            return self._device

    def _choose(self) -> Device:
        wanted = self._wanted[0]
        if wanted == "cpu":
            return select_device("cpu")
        name = "the GPU" if wanted == "auto" else ",".join(self._wanted)
        try:
            device, searcher = self._choose_faiss()
        except CannotSearch as refusal:
            return self._choose_torch(name, refusal)
        self._mirrors = (searcher,)
        if "torch" in sys.modules:
            self._mirrors += self._find_torch(str(device))[1:]
        return device

    def _choose_faiss(self) -> tuple[Device, Searcher]:
        """Start the mirror. torch is not asked: FAISS needs a driver, and no torch."""
        from langchain_gpu.search.faiss_gpu import FaissGPU, has_gpu_build

        matches = [_NAMES.fullmatch(name) for name in self._wanted]
        kinds = {match["kind"] for match in matches if match}
        indices = [int(match["index"] or 0) for match in matches if match]
        if not kinds <= {None, "cuda"}:
            raise CannotSearch(f"FAISS has no kernels for {kinds.pop()}", cause="absent")
        if not has_gpu_build():
            # Which wheel has kernels for a card the doctor knows; here no driver was asked.
            advice = (
                f"for a GPU: pip uninstall faiss-cpu, then {install_line('faiss-gpu')}, or what "
                "`langchain-gpu doctor` names for the card"
            )
            raise CannotSearch(f"{_CPU_BUILD} ({advice})", cause="absent")
        nvidia = read_nvidia()
        cards = visible_nvidia(nvidia.gpus, os.environ)
        if nvidia.error and not cards:
            raise CannotSearch(nvidia.error, cause="fault")
        if max(indices) >= len(cards):
            raise CannotSearch(f"NVIDIA GPUs here: {len(cards)}", cause="absent")
        searcher = FaissGPU(*indices, dtype=self._dtype, temporary=self._temporary)
        shared = f", as on {searcher.name}, which share the vectors" if len(indices) > 1 else ""
        reason = f"the installed FAISS found a test vector on it{shared}"
        return device_of("cuda", indices[0], cards[indices[0]], reason), searcher

    def _choose_torch(self, name: str, refusal: CannotSearch) -> Device:
        """Take torch where FAISS cannot be had on the device, else the CPU."""
        wanted, why = self._wanted[0], str(refusal)
        if wanted != "auto" or "torch" in sys.modules:
            device, *searchers = self._find_torch(wanted)
            if searchers:
                self._mirrors = tuple(searchers)
                reason = f"{device.reason}; searched by torch: {why}"
                if refusal.cause != "absent" or len(self._wanted) > 1:
                    self._unreported.append((name, searchers[0].name, why))
                return replace(device, reason=reason)
            why = f"{why}; {device.reason}" if wanted != "auto" else why
        if refusal.cause == "absent" and wanted == "auto":
            return _cpu(why)  # nothing was expected, so nothing fell back
        self._unreported.append((name, "cpu", why))
        return _cpu(f"not on {name}: {why}")

    def _find_torch(self, wanted: str) -> tuple[Device, *tuple[Searcher, ...]]:
        """Return torch's device and its searcher; only the CPU, with the reason, without a GPU."""
        if not is_installed("torch"):
            return (_cpu(f"torch is not installed ({install_line('local')})"),)
        try:
            device = select_device(wanted)
        except DeviceNotFoundError as error:
            return (_cpu(str(error)),)
        if device.kind == "cpu":
            return (device,)
        from langchain_gpu.search.torch_flat import TorchFlat

        return device, TorchFlat(device, dtype=self._dtype)

    def _pass_on(self, searcher: Searcher, following: Searcher, refusal: CannotSearch) -> None:
        """Note that a searcher hands a search on, and leave it out where it cannot search again."""
        with self._lock:
            if refusal.lasting and searcher in self._mirrors:
                self._mirrors = tuple(other for other in self._mirrors if other is not searcher)
                reason = f"{searcher.name} was given up: {refusal}"
                if not self._mirrors:
                    self._device = _cpu(reason)
                elif self._device is not None:
                    self._device = replace(self._device, reason=reason)
            if (searcher.name, refusal.cause) not in self._reported:
                self._reported.add((searcher.name, refusal.cause))
                self._unreported.append((searcher.name, following.name, str(refusal)))


def _distinct_cards(names: Sequence[str]) -> bool:
    return len(set(names)) == len(names) and all(name.startswith("cuda:") for name in names)


def _cpu(reason: str) -> Device:
    return replace(select_device("cpu"), reason=reason)


__all__ = ["DType", "Route"]
