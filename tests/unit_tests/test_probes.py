"""The readers of drivers, kernels and torch builds, on machines that are not here.

NVML's functions are replaced one by one in the real pynvml, and raise its real errors.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from langchain_gpu.hardware import torch_build
from langchain_gpu.hardware.amd import Amd, read_amd
from langchain_gpu.hardware.facts import read_facts
from langchain_gpu.hardware.gpu import GPU, drm_cards
from langchain_gpu.hardware.nvidia import NO_DRIVER, NO_LIBRARY, NO_PACKAGE, Nvidia, read_nvidia
from langchain_gpu.hardware.torch_build import TorchBuild, look_inside, read_build

Patch = pytest.MonkeyPatch


def raises(code: int) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise pynvml.NVMLError(code)

    return fail


def fake_nvml(monkeypatch: Patch, **answers: Any) -> None:
    """Let NVML answer as a machine with an A100 and a lost card would; `answers` change it."""
    memory = SimpleNamespace(total=80, free=70)
    functions: dict[str, Any] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.95.05",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13020,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda i: "a100" if i == 0 else raises(15)(),
        "nvmlDeviceGetName": lambda handle: {"a100": "NVIDIA A100", "mig": "A100 MIG 1g"}[handle],
        "nvmlDeviceGetUUID": lambda handle: {"a100": "GPU-1", "mig": "MIG-1"}[handle],
        "nvmlDeviceGetCudaComputeCapability": lambda _: (8, 0),
        "nvmlDeviceGetMemoryInfo": lambda _: memory,
        "nvmlDeviceGetMigMode": raises(pynvml.NVML_ERROR_NOT_SUPPORTED),
        **answers,
    }
    for name, function in functions.items():
        monkeypatch.setattr(pynvml, name, function)


def test_nvml_lists_cards_and_keeps_the_place_of_a_lost_one(
    monkeypatch: Patch, tmp_path: Path
) -> None:
    fake_nvml(monkeypatch)
    card = GPU(name="NVIDIA A100", uuid="GPU-1", capability="8.0", memory_total=80, memory_free=70)
    lost = GPU(name="NVIDIA GPU")  # keeps its place, so that cuda:2 stays cuda:2
    assert read_nvidia(tmp_path) == Nvidia(gpus=(card, lost), driver="580.95.05", cuda=(13, 2))


def test_a_card_that_shares_the_systems_memory(monkeypatch: Patch, tmp_path: Path) -> None:
    fake_nvml(monkeypatch, nvmlDeviceGetMemoryInfo=raises(pynvml.NVML_ERROR_NOT_SUPPORTED))
    assert read_nvidia(tmp_path).gpus[0].memory_total is None


def test_mig_instances(monkeypatch: Patch, tmp_path: Path) -> None:
    fake_nvml(
        monkeypatch,
        nvmlDeviceGetMigMode=lambda _: [1, 1],
        nvmlDeviceGetMaxMigDeviceCount=lambda _: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=lambda _, i: "mig" if i == 3 else raises(6)(),
    )
    instances = read_nvidia(tmp_path).gpus[0].instances
    assert [(gpu.name, gpu.uuid, gpu.capability) for gpu in instances] == [
        ("A100 MIG 1g", "MIG-1", "8.0")
    ]


@pytest.mark.parametrize(
    ("code", "files", "error"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, [], None),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, ["proc/driver/nvidia/version"], NO_LIBRARY),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, ["sys/class/drm/card0/device/vendor"], NO_DRIVER),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, [], "Driver Not Loaded"),
        (
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            [],
            "RM has detected an NVML/RM version mismatch.",
        ),
    ],
)
def test_nvml_that_fails(
    monkeypatch: Patch, tmp_path: Path, code: int, files: list[str], error: str | None
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("0x10de\n")
    monkeypatch.setattr(pynvml, "nvmlInit", raises(code))
    assert read_nvidia(tmp_path) == Nvidia(error=error)


def test_without_nvidia_ml_py(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_nvidia(tmp_path) == Nvidia()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("")
    assert read_nvidia(tmp_path).error == NO_PACKAGE


def kfd_node(root: Path, number: int, **properties: int) -> None:
    node = root / f"sys/class/kfd/kfd/topology/nodes/{number}"
    node.mkdir(parents=True)
    lines = [f"{name} {value}\n" for name, value in properties.items()]
    (node / "properties").write_text("".join(lines))


def drm_card(root: Path, name: str, **files: str) -> None:
    device = root / "sys/class/drm" / name / "device"
    device.mkdir(parents=True)
    for file, text in files.items():
        (device / file).write_text(f"{text}\n")


@pytest.fixture
def amd(tmp_path: Path) -> Path:
    """A machine with a CPU node, an MI210 as node 10 and a 7900 XTX as node 2."""
    kfd_node(tmp_path, 0, cpu_cores_count=16, gfx_target_version=0)
    kfd_node(
        tmp_path,
        10,
        gfx_target_version=90010,
        drm_render_minor=129,
        location_id=0x4308,
        unique_id=7,
    )
    kfd_node(tmp_path, 2, gfx_target_version=110000, drm_render_minor=128, location_id=0x300)
    kfd_node(tmp_path, 3)  # a card this container may not see
    vram = {"mem_info_vram_total": "100", "mem_info_vram_used": "40"}
    drm_card(tmp_path, "renderD128", **vram)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").write_text("")
    return tmp_path


def test_kfd_cards_stand_in_the_kernels_order(amd: Path) -> None:
    found = read_amd(amd)
    assert [(gpu.capability, gpu.uuid) for gpu in found.gpus] == [
        ("gfx1100", "GPU-0000000000000000"),
        ("gfx90a", "GPU-0000000000000007"),
    ]
    assert (found.gpus[0].memory_total, found.gpus[0].memory_free) == (100, 60)
    assert found.gpus[1].memory_free is None
    assert found.compute
    assert found.allowed


def test_amdsmi_knows_the_names(amd: Path, monkeypatch: Patch) -> None:
    fake = ModuleType("amdsmi")
    fake.__spec__ = importlib.machinery.ModuleSpec("amdsmi", None)
    vars(fake).update(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: ["x", "y"],
        amdsmi_get_gpu_device_bdf={"x": "0000:43:01.0", "y": "0000:03:00.0"}.get,
        amdsmi_get_gpu_asic_info={
            "x": {"market_name": "AMD Instinct MI210"},
            "y": {"market_name": "AMD Radeon RX 7900 XTX"},
        }.get,
    )
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    names = [gpu.name for gpu in read_amd(amd).gpus]
    assert names == ["AMD Radeon RX 7900 XTX", "AMD Instinct MI210"]

    def broken() -> None:
        raise KeyError("the library is of another version")

    vars(fake)["amdsmi_init"] = broken
    assert read_amd(amd).gpus[0].name == "AMD GPU (gfx1100)"


def test_an_amd_card_without_the_compute_driver(tmp_path: Path) -> None:
    drm_card(tmp_path, "card1", vendor="0x1002", device="0x744c")
    assert read_amd(tmp_path) == Amd(gpus=(GPU(name="AMD GPU"),), compute=False)


def test_no_amd_card(tmp_path: Path) -> None:
    assert read_amd(tmp_path) == Amd()


def test_connectors_are_no_cards(tmp_path: Path) -> None:
    drm_card(tmp_path, "card0", vendor="0x8086", device="0x56a0")
    drm_card(tmp_path, "card0-HDMI-A-1", vendor="0x8086", device="0x56a0")
    drm_card(tmp_path, "card1", vendor="0x10de", device="0x2330")
    drm_card(tmp_path, "card2", vendor="nonsense")
    assert drm_cards(0x8086, tmp_path) == ["8086:56a0"]


def fake_torch(monkeypatch: Patch, folder: Path, version: str) -> None:
    (folder / "version.py").write_text(version)
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    monkeypatch.setattr(torch_build, "find_spec", lambda _: spec)


def test_a_build_is_read_without_importing_it(monkeypatch: Patch, tmp_path: Path) -> None:
    text = (
        "from typing import Optional\n__version__ = '2.9.1+cu128'\ncuda: Optional[str] = '12.8'\n"
    )
    fake_torch(monkeypatch, tmp_path, text + "hip: Optional[str] = None\n")
    assert read_build() == TorchBuild(version="2.9.1+cu128", cuda="12.8")


def test_no_torch(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch_build, "find_spec", lambda _: None)
    assert read_build() is None
    leftover = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(torch_build, "find_spec", lambda _: leftover)
    assert read_build() is None


def test_a_torch_that_cannot_be_imported_says_why(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    build = look_inside(TorchBuild(version="2.13.0"))
    assert build.error is not None
    assert "torch" in build.error


def test_the_installed_torch() -> None:
    import torch

    build = read_build()
    assert build is not None
    assert build.version == torch.__version__
    assert (build.cuda, build.hip) == (torch.version.cuda, torch.version.hip)
    assert look_inside(build).archs == tuple(torch.cuda.get_arch_list())


def test_xpus_are_counted_and_named_only_when_awake(monkeypatch: Patch) -> None:
    import torch

    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    build = TorchBuild(version="2.13.0+xpu", xpu="2025.3")
    assert look_inside(build).counted == (GPU(name="Intel GPU"),)
    card = SimpleNamespace(name="Intel Arc B580", total_memory=12)
    monkeypatch.setattr(torch.xpu, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: card)
    assert look_inside(build).counted == (GPU(name="Intel Arc B580", memory_total=12),)


def test_this_machine_can_be_read() -> None:
    facts = read_facts()
    assert facts.cpu.cores >= 1
    assert facts.torch is not None
