"""The GPUs that llama.cpp's own build supports, which may differ from torch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_gpu.hardware.devices import Kind

Info = Mapping[str, Any]
"""What `xllamacpp.get_device_info()` says of one device."""

# What llama.cpp calls a card begins with the name of its back end.
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("cuda", "cuda"),
    ("rocm", "rocm"),
    ("hip", "rocm"),
    ("sycl", "xpu"),
    ("metal", "mps"),
    ("mtl", "mps"),
)


def gpus_of(infos: Sequence[Info]) -> list[Info]:
    """Return the GPUs among llama.cpp's devices, those in a processor too, in its own order."""
    return [info for info in infos if info["type"].name.endswith("GPU")]  # GPU and IGPU


def kind_of(gpu: Info) -> Kind | None:
    """Return whose GPU it is; None where llama.cpp does not say, as Vulkan drives every maker's."""
    name = gpu["name"].lower()
    return next((kind for prefix, kind in _KINDS if name.startswith(prefix)), None)


def position_of(gpus: Sequence[Info], kind: str, index: int) -> int | None:
    """Return which of the GPUs is number `index` of a kind; None where there are not so many.

    One that does not say whose it is may be of any kind.
    """
    same_kind = [at for at, gpu in enumerate(gpus) if kind_of(gpu) in (kind, None)]
    return same_kind[index] if index < len(same_kind) else None


__all__ = ["Info", "gpus_of", "kind_of", "position_of"]
