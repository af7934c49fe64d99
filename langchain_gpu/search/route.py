"""Which searcher answers: a device with its reason, and the CPU behind it."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from threading import Lock

from langchain_gpu._extras import install_line
from langchain_gpu.events import Listener, warn_fallback
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.gpu import visible_nvidia
from langchain_gpu.hardware.nvidia import read_nvidia
from langchain_gpu.search.base import (
    EFFORT,
    CannotSearch,
    Effort,
    Found,
    Matrix,
    Rows,
    Searcher,
    VectorIndex,
)
from langchain_gpu.search.faiss_cpu import FaissCPU

_NAMES = re.compile(r"auto|cpu|(?P<kind>cuda|rocm|xpu|mps)(:(?P<index>\d+))?")
_CPU_BUILD = "the installed FAISS is a CPU build"


class Route:
    """Searches on the device that was asked for; what that cannot do, the CPU does.

    A search that the device hands on is answered by the CPU index, the truth, so the result is the
    same. Each cause is told once, by `report`: a search runs behind the store's lock, where neither
    a listener nor a warnings hook has any business.
    """

    def __init__(self, device: str = "auto", listener: Listener | None = None) -> None:
        """Nothing is probed yet.

        Args:
            device: `"auto"`, `"cpu"`, or a GPU such as `"cuda:0"`.
            listener: Receives fallbacks.

        Raises:
            ValueError: `device` is none of these.
        """
        if not _NAMES.fullmatch(device):
            raise ValueError(
                f"{device!r} names no device: write auto, cpu, cuda, or cuda with an index, as in "
                "cuda:1"
            )
        self._wanted = device
        self._listener = listener
        self._cpu = FaissCPU()
        self._gpu: Searcher | None = None
        self._device: Device | None = None
        self._told: set[str] = set()
        self._untold: list[tuple[str, str]] = []  # (device, reason)
        self._lock = Lock()

    @property
    def device(self) -> Device:
        """Where searches run, with the reason. Looked up when it is first needed."""
        device = self._chosen()
        self.report()
        return device

    def report(self) -> None:
        """Tell what fell back since the last time: a `FallbackWarning`, a `FellBack`."""
        with self._lock:
            untold, self._untold = self._untold, []
        for name, reason in untold:
            warn_fallback(self._listener, what="search", source=name, target="cpu", reason=reason)

    def search(
        self,
        index: VectorIndex,
        queries: Matrix,
        k: int,
        allowed: Rows | None = None,
        effort: Effort = EFFORT,
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given."""
        self._chosen()
        if (gpu := self._gpu) is not None:
            try:
                gpu.build(index)
                return gpu.search(queries, k, allowed, effort)
            except CannotSearch as turn:
                self._turn(gpu.name, turn)
        self._cpu.build(index)
        return self._cpu.search(queries, k, allowed, effort)

    def _chosen(self) -> Device:
        with self._lock:
            if self._device is None:
                self._device = self._choose()
            return self._device

    def _choose(self) -> Device:
        if self._wanted == "cpu":
            return select_device("cpu")
        try:
            return self._choose_gpu()
        except CannotSearch as turn:
            if turn.cause == "absent" and self._wanted == "auto":
                return _cpu(str(turn))  # nothing was expected, so nothing fell back
            name = "the GPU" if self._wanted == "auto" else self._wanted
            self._untold.append((name, str(turn)))
            return _cpu(f"not on {name}: {turn}")

    def _choose_gpu(self) -> Device:
        """Start the mirror. torch is not asked: FAISS needs a driver, and no torch."""
        from langchain_gpu.search.faiss_gpu import FaissGPU, has_gpu_build

        wanted = _NAMES.fullmatch(self._wanted)
        kind, index = (wanted["kind"], int(wanted["index"] or 0)) if wanted else (None, 0)
        if kind not in {None, "cuda"}:
            raise CannotSearch(f"FAISS has no kernels for {kind}", cause="absent")
        if not has_gpu_build():
            advice = f"for a GPU: pip uninstall faiss-cpu, then {install_line('faiss-gpu')}"
            raise CannotSearch(f"{_CPU_BUILD} ({advice})", cause="absent")
        nvidia = read_nvidia()
        cards = visible_nvidia(nvidia.gpus, os.environ)
        if nvidia.error and not cards:
            raise CannotSearch(nvidia.error, cause="fault")
        if index >= len(cards):
            raise CannotSearch(f"NVIDIA GPUs here: {len(cards)}", cause="absent")
        self._gpu = FaissGPU(index)
        card = cards[index]
        return Device(
            kind="cuda",
            index=index,
            name=card.name,
            reason="the installed FAISS found a test vector on it",
            memory_total=card.memory_total,
            memory_free=card.memory_free,
            capability=card.capability,
        )

    def _turn(self, name: str, turn: CannotSearch) -> None:
        with self._lock:
            if turn.lasting and self._gpu is not None:
                self._gpu = None
                self._device = _cpu(f"{name} was given up: {turn}")
            if turn.cause not in self._told:
                self._told.add(turn.cause)
                self._untold.append((name, str(turn)))


def _cpu(reason: str) -> Device:
    return replace(select_device("cpu"), reason=reason)


__all__ = ["Route"]
