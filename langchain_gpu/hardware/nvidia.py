"""NVIDIA cards, read through NVML, which creates no CUDA context.

A context costs hundreds of megabytes on the card and leaves forked children unable to use CUDA.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_gpu.hardware.gpu import GPU, ROOT, drm_cards

_VENDOR = 0x10DE
NO_PACKAGE = "the package nvidia-ml-py, which asks the driver, is not installed"
NO_LIBRARY = "the kernel has NVIDIA's driver, but its library libnvidia-ml is not here"
NO_DRIVER = "NVIDIA's driver is not installed"

# Each exists where an NVIDIA driver is loaded: Linux, WSL, Windows.
_DRIVER_FILES = ("proc/driver/nvidia/version", "usr/lib/wsl/lib/libnvidia-ml.so.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvidia:
    """What the NVIDIA driver says.

    Attributes:
        gpus: Every card in NVML's order (PCI bus), whatever `CUDA_VISIBLE_DEVICES` hides.
        driver: Version of the driver, None where there is none.
        cuda: Newest CUDA (major, minor) the driver runs. A forward-compatibility package in the
            library path counts.
        error: Why a card that is here cannot be asked for; `NO_...` above or NVML's words.
    """

    gpus: tuple[GPU, ...] = ()
    driver: str | None = None
    cuda: tuple[int, int] | None = None
    error: str | None = None


def read_nvidia(root: Path = ROOT) -> Nvidia:
    """Ask NVML what is here.

    Args:
        root: Where `proc` and `sys` lie; a driver and a card show there even without NVML.
    """
    present = _driver_loaded(root)
    try:
        import pynvml
    except ImportError:
        return Nvidia(error=NO_PACKAGE if present else None)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        if present:
            return Nvidia(error=NO_LIBRARY)
        return Nvidia(error=NO_DRIVER if drm_cards(_VENDOR, root) else None)
    except pynvml.NVMLError as error:
        return Nvidia(error=str(error))
    try:
        count: int = _ask(pynvml.nvmlDeviceGetCount) or 0
        version: int | None = _ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        return Nvidia(
            gpus=tuple(_read_gpu(_ask(pynvml.nvmlDeviceGetHandleByIndex, i)) for i in range(count)),
            driver=_ask(pynvml.nvmlSystemGetDriverVersion),
            cuda=None if version is None else (version // 1000, version % 1000 // 10),
        )
    finally:
        _ask(pynvml.nvmlShutdown)


def _read_gpu(handle: Any) -> GPU:
    """Read one card. One that fell off the bus keeps its place, so that indices stay true."""
    import pynvml

    if handle is None:
        return GPU(name="NVIDIA GPU")
    capability = _ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    dotted = None if capability is None else f"{capability[0]}.{capability[1]}"
    name = _ask(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    instances: list[GPU] = []
    mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
        for i in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            instance = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, i)
            if instance is not None:
                mig_name = _ask(pynvml.nvmlDeviceGetName, instance) or f"{name} MIG"
                instances.append(_describe(instance, mig_name, dotted))
    return _describe(handle, name, dotted, tuple(instances))


def _describe(
    handle: Any, name: str, capability: str | None, instances: tuple[GPU, ...] = ()
) -> GPU:
    import pynvml

    # Cards that share the system's memory (Jetson, GB10) answer "not supported": unknown.
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return GPU(
        name=name,
        uuid=_ask(pynvml.nvmlDeviceGetUUID, handle) or "",
        capability=capability,
        memory_total=None if memory is None else memory.total,
        memory_free=None if memory is None else memory.free,
        instances=instances,
    )


def _ask(function: Callable[..., Any], *args: Any) -> Any:
    """Call NVML; what this card or this driver cannot tell is None."""
    import pynvml

    try:
        return function(*args)
    except pynvml.NVMLError:
        return None


def _driver_loaded(root: Path) -> bool:
    windows = Path(os.environ.get("WINDIR", root)) / "System32/nvml.dll"
    return windows.exists() or any((root / file).exists() for file in _DRIVER_FILES)


__all__ = ["NO_DRIVER", "NO_LIBRARY", "NO_PACKAGE", "Nvidia", "read_nvidia"]
