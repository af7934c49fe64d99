"""llama.cpp's GPUs, as its builds list them, and the device a user names."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest

from langchain_gpu.generators import placement
from langchain_gpu.generators.placement import place_layers
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError

CPU = Device(kind="cpu", name="a CPU", reason="no GPU was found", cores=2)
CARD = Device(kind="cuda", index=0, name="an H100", reason="torch runs on it")


class Type(IntEnum):
    """The names of ggml_backend_dev_type."""

    GGML_BACKEND_DEVICE_TYPE_CPU = 0
    GGML_BACKEND_DEVICE_TYPE_GPU = 1
    GGML_BACKEND_DEVICE_TYPE_IGPU = 2


def info(name: str, kind: Type = Type.GGML_BACKEND_DEVICE_TYPE_GPU) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"card {name}",
        "type": kind,
        "memory_total": 80,
        "memory_free": 70,
    }


CPU_INFO = info("CPU", Type.GGML_BACKEND_DEVICE_TYPE_CPU)


def machine(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> None:
    def select(name: str) -> Device:
        if name == "auto":
            return devices[0]
        for device in devices:
            if name in (device.kind, str(device)):
                return device
        if name.partition(":")[0] not in ("cuda", "rocm"):
            raise ValueError(f"{name!r} is not a device")
        raise DeviceNotFoundError(f"device {name!r} cannot be used")

    monkeypatch.setattr(placement, "select_device", select)


def test_no_gpu_anywhere_is_the_cpu_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, CPU)
    place = place_layers("auto", [CPU_INFO])
    assert (place.device, place.problem) == (CPU, None)


def test_a_named_gpu_that_is_not_here_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, CPU)
    place = place_layers("cuda", [CPU_INFO])
    assert place.device == CPU
    assert place.problem == "device 'cuda' cannot be used"


@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:0"])
def test_a_card_with_a_cpu_build_is_a_problem(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, CARD, CPU)
    place = place_layers(wanted, [CPU_INFO])
    assert place.device == CPU
    assert place.problem is not None
    assert "an H100" in place.problem
    assert "build of xllamacpp" in place.problem


@pytest.mark.parametrize(
    ("wanted", "names", "kind", "index", "main_gpu"),
    [
        ("auto", ["CUDA0", "CUDA1"], "cuda", 0, 0),
        ("cuda", ["CUDA0", "CUDA1"], "cuda", 0, 0),
        ("cuda:1", ["CUDA0", "CUDA1"], "cuda", 1, 1),
        ("auto", ["ROCm0"], "rocm", 0, 0),
        ("rocm:1", ["CUDA0", "ROCm0", "ROCm1"], "rocm", 1, 2),
        ("xpu", ["SYCL0"], "xpu", 0, 0),
        ("mps", ["Metal"], "mps", 0, 0),
        ("rocm", ["Vulkan0"], "rocm", 0, 0),
    ],
)
def test_llama_cpps_gpus_are_found_by_name(
    wanted: str, names: list[str], kind: str, index: int, main_gpu: int
) -> None:
    place = place_layers(wanted, [*(info(name) for name in names), CPU_INFO])
    assert (place.device.kind, place.device.index, place.main_gpu) == (kind, index, main_gpu)
    assert place.problem is None
    assert place.device.name == f"card {names[main_gpu]}"


def test_an_integrated_gpu_counts() -> None:
    place = place_layers("auto", [info("Vulkan0", Type.GGML_BACKEND_DEVICE_TYPE_IGPU)])
    assert place.device.kind != "cpu"


def test_an_index_too_high_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, CPU)
    place = place_layers("cuda:4", [info("CUDA0")])
    assert place.problem == "llama.cpp sees only CUDA0, not cuda:4"


def test_the_cpu_can_be_asked_for_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, CPU)
    assert place_layers("cpu", [info("CUDA0")]).device == CPU


@pytest.mark.parametrize("infos", [[CPU_INFO], [info("CUDA0")]])
def test_a_name_that_is_none_is_refused(
    infos: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, CPU)
    with pytest.raises(ValueError, match="is not a device"):
        place_layers("quantum", infos)
