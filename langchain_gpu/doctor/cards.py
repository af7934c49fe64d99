"""GPUs that programs other than torch can use, whichever build of torch is installed."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_gpu.hardware.devices import Device, device_of
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import visible_nvidia


def cards(facts: Facts, devices: Sequence[Device]) -> list[Device]:
    """Return the GPUs of `devices`; without one, the NVIDIA cards whose driver answers.

    FAISS, llama.cpp and Ollama need a driver and no torch.

    Args:
        facts: The machine.
        devices: What torch can use of it.
    """
    usable = [device for device in devices if device.kind != "cpu"]
    if usable:
        return usable
    return [
        device_of("cuda", index, gpu, "its driver answers")
        for index, gpu in enumerate(visible_nvidia(facts.nvidia.gpus, facts.environ))
        if gpu.capability is not None
    ]


__all__ = ["cards"]
