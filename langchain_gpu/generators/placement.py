"""The device of a model, and the fallback where the chosen one cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_gpu.events import warn_fallback
from langchain_gpu.generators.options import Options
from langchain_gpu.hardware.devices import (
    Device,
    DeviceNotFoundError,
    Kind,
    problems,
    select_device,
)
from langchain_gpu.llama.gpus import Info, gpus_of, kind_of, position_of


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and which of llama.cpp's GPUs it is.

    Attributes:
        device: Where the layers go, with the reason.
        main_gpu: Position among llama.cpp's GPUs; 0 on the CPU.
        problem: Why the GPU that is here, or was named, is not used.
    """

    device: Device
    main_gpu: int = 0
    problem: str | None = None


def place_layers(wanted: str, infos: Sequence[Info]) -> Place:
    """Find the GPU of llama.cpp that `wanted` names: it sees those of its own build, not torch's.

    Args:
        wanted: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` and so on.
        infos: What `xllamacpp.get_device_info()` says.

    Raises:
        ValueError: `wanted` names no kind of device.
    """
    gpus = gpus_of(infos)
    if wanted == "cpu":
        return Place(select_device("cpu"))
    if not gpus:
        return _without_gpus(wanted)
    if wanted == "auto":
        return Place(_device(gpus[0], kind_of(gpus[0]) or "cuda", 0))
    match = re.fullmatch(r"(cuda|rocm|xpu|mps)(?::(\d+))?", wanted)
    if match is None:
        return Place(select_device(wanted))  # raises, and says what can be written
    kind: Any = match[1]
    index = int(match[2] or 0)
    position = position_of(gpus, kind, index)
    if position is not None:
        return Place(_device(gpus[position], kind, index), position)
    names = ", ".join(gpu["name"] for gpu in gpus)
    return Place(select_device("cpu"), problem=f"llama.cpp sees only {names}, not {wanted}")


def place_model(options: Options) -> Device:
    """Choose the device for torch by the caller's policy.

    Raises:
        DeviceNotFoundError: The device is not here and `fallback="error"`.
    """
    problem: str | None = None
    try:
        device = select_device(options.device)
    except DeviceNotFoundError as error:
        device, problem = select_device("cpu"), str(error)
    if options.device == "auto" and device.kind == "cpu" and (found := problems()):
        problem = f"{found[0].what}: {found[0].remedy}"  # a GPU that could work but does not
    return device if problem is None else fall_back(options, problem)


def fall_back(options: Options, problem: str) -> Device:
    """Return the CPU with `problem` as its reason, and say so.

    Raises:
        DeviceNotFoundError: A device was named and `fallback="error"`.
    """
    source = "the GPU" if options.device == "auto" else options.device
    if options.fallback == "error" and options.device != "auto":
        raise DeviceNotFoundError(f"{source} cannot be used and fallback='error': {problem}")
    warn_fallback(options.listener, what="chat", source=source, target="cpu", reason=problem)
    return replace(select_device("cpu"), reason=problem)


def _without_gpus(wanted: str) -> Place:
    try:
        device = select_device(wanted)
    except DeviceNotFoundError as error:
        return Place(select_device("cpu"), problem=str(error))
    if device.kind == "cpu":
        return Place(device)
    return Place(
        select_device("cpu"),
        problem=f"there is a {device.name}, but this build of xllamacpp is for the CPU; its README "
        f"names the builds for CUDA, ROCm and Vulkan",
    )


def _device(gpu: Info, kind: Kind, index: int) -> Device:
    return Device(
        kind=kind,
        index=index,
        name=gpu["description"],
        reason=f"llama.cpp runs on {gpu['name']}",
        memory_total=gpu["memory_total"],
        memory_free=gpu["memory_free"],
    )


__all__ = ["Place", "fall_back", "place_layers", "place_model"]
