"""Which searcher answers: a device with its reason, and the CPU behind it."""

from __future__ import annotations

from dataclasses import replace
from threading import RLock

from langchain_gpu._extras import install_line
from langchain_gpu.events import Listener, warn_fallback
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.search.base import CannotSearch, Found, Matrix, Rows, Searcher, VectorIndex
from langchain_gpu.search.faiss_cpu import FaissCPU

CPU_BUILD = "the installed FAISS is a CPU build"


class Route:
    """Searches on the device that was asked for; what that cannot do, the CPU does.

    A search the device hands on is answered by the CPU index, the truth, so the result is the same.
    Each cause is reported once: a `FallbackWarning`, and a `FellBack` for the listener.
    """

    def __init__(self, device: str = "auto", listener: Listener | None = None) -> None:
        """Nothing is probed yet.

        Args:
            device: `"auto"`, `"cpu"`, or a GPU such as `"cuda:0"`.
            listener: Receives fallbacks.
        """
        self._wanted = device
        self._listener = listener
        self._cpu = FaissCPU()
        self._gpu: Searcher | None = None
        self._device: Device | None = None
        self._told: set[str] = set()
        self._lock = RLock()  # a listener may ask for the device while it is told

    @property
    def device(self) -> Device:
        """Where searches run, with the reason. Looked up when it is first needed."""
        with self._lock:
            if self._device is None:
                self._device = self._choose()
            return self._device

    def search(
        self, index: VectorIndex, queries: Matrix, k: int, allowed: Rows | None = None
    ) -> Found:
        """Return the `k` nearest rows of each query, only out of `allowed` if that is given."""
        self.device  # noqa: B018 - the first search chooses
        if (gpu := self._gpu) is not None:
            try:
                gpu.build(index)
                return gpu.search(queries, k, allowed)
            except CannotSearch as turn:
                self._turn(gpu.name, turn)
        self._cpu.build(index)
        return self._cpu.search(queries, k, allowed)

    def _choose(self) -> Device:
        if self._wanted == "cpu":
            return select_device("cpu")
        from langchain_gpu.search.faiss_gpu import has_gpu_build

        if self._wanted == "auto" and not has_gpu_build():
            # No question to torch or a driver: nothing they could say would change the choice.
            return _cpu(CPU_BUILD)
        device = select_device(self._wanted)
        if device.kind == "cpu":
            return device
        try:
            self._gpu = _mirror(device)
        except CannotSearch as turn:
            self._tell(str(device), str(turn))
            return _cpu(f"not on {device}: {turn}")
        return device

    def _turn(self, name: str, turn: CannotSearch) -> None:
        with self._lock:
            if turn.lasting and self._gpu is not None:
                self._gpu = None
                self._device = _cpu(f"{name} was given up: {turn}")
            if turn.cause in self._told:
                return
            self._told.add(turn.cause)
        self._tell(name, str(turn))

    def _tell(self, name: str, reason: str) -> None:
        warn_fallback(self._listener, what="search", source=name, target="cpu", reason=reason)


def _mirror(device: Device) -> Searcher:
    from langchain_gpu.search.faiss_gpu import FaissGPU, has_gpu_build

    if device.kind != "cuda":
        raise CannotSearch(f"FAISS has no kernels for {device.kind}", cause="fault", lasting=True)
    if not has_gpu_build():
        advice = f"pip uninstall faiss-cpu; {install_line('faiss-gpu')}"
        raise CannotSearch(f"{CPU_BUILD}: {advice}", cause="fault", lasting=True)
    return FaissGPU(device.index or 0)


def _cpu(reason: str) -> Device:
    return replace(select_device("cpu"), reason=reason)


__all__ = ["Route"]
