from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from langchain_gpu.hardware.amd import Amd
from langchain_gpu.hardware.cpu import CPU
from langchain_gpu.hardware.devices import (
    Device,
    DeviceNotFoundError,
    dtype_reason,
    list_devices,
    select_device,
)
from langchain_gpu.hardware.dtypes import choose_dtype
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import Nvidia
from langchain_gpu.hardware.torch_build import TorchBuild

GIB = 2**30
H100 = GPU(name="NVIDIA H100", capability="9.0", memory_total=80 * GIB, memory_free=79 * GIB)
A100 = GPU(name="NVIDIA A100", capability="8.0", memory_total=40 * GIB, memory_free=40 * GIB)
V100 = GPU(name="Tesla V100", capability="7.0", memory_total=96 * GIB)
CUDA = TorchBuild(version="2.13.0+cu126", cuda="12.6", archs=("sm_70", "sm_80", "sm_90"))
XEON = CPU(name="Xeon", isa=("avx2", "amx_bf16"), cores=4, memory_total=8 * GIB, memory_free=GIB)

PLAIN = Facts(cpu=XEON, torch=TorchBuild(version="2.13.0+cpu"))
NVIDIA = replace(PLAIN, torch=CUDA, nvidia=Nvidia(gpus=(V100, A100, H100), cuda=(12, 8)))
AMD = replace(
    PLAIN,
    torch=TorchBuild(version="2.13.0+rocm7.2", hip="7.2.1"),
    amd=Amd(gpus=(GPU(name="AMD Instinct MI300X", capability="gfx942", memory_total=192 * GIB),)),
)
INTEL = replace(
    PLAIN,
    torch=TorchBuild(version="2.13.0+xpu", xpu="2025.3", counted=(GPU(name="Intel Arc B580"),)),
    intel=("8086:e20b",),
)
APPLE = replace(
    PLAIN,
    torch=TorchBuild(version="2.13.0", mps=True),
    apple=GPU(name="Apple M2 Max", memory_total=64 * GIB),
)


def test_cuda_best_first_and_the_cpu_last() -> None:
    devices = list_devices(NVIDIA)
    assert [str(device) for device in devices] == ["cuda:2", "cuda:1", "cuda:0", "cpu"]
    best = devices[0]
    assert best == Device(
        kind="cuda",
        index=2,
        name="NVIDIA H100",
        reason="torch 2.13.0+cu126 runs on compute capability 9.0",
        memory_total=80 * GIB,
        memory_free=79 * GIB,
        capability="9.0",
        dtype="bfloat16",
    )
    assert best.torch_name == "cuda:2"
    assert devices[-1].reason == "always here; cuda:2 comes first"


def test_visible_devices_renumber() -> None:
    facts = replace(NVIDIA, environ={"CUDA_VISIBLE_DEVICES": "2,0"})
    devices = list_devices(facts)
    assert [(str(device), device.name) for device in devices[:2]] == [
        ("cuda:0", "NVIDIA H100"),
        ("cuda:1", "Tesla V100"),
    ]


def test_a_mig_instance_named_by_its_uuid() -> None:
    instance = GPU(name="A100 MIG 1g.5gb", uuid="MIG-1", capability="8.0", memory_total=5 * GIB)
    facts = replace(
        NVIDIA,
        nvidia=Nvidia(gpus=(replace(A100, instances=(instance,)),)),
        environ={"CUDA_VISIBLE_DEVICES": "MIG-1"},
    )
    device = select_device("cuda:0", facts=facts)
    assert (device.name, device.memory_total) == ("A100 MIG 1g.5gb", 5 * GIB)


@pytest.mark.parametrize(
    ("facts", "name", "torch_name", "dtype"),
    [
        (PLAIN, "cpu", "cpu", "bfloat16"),
        (NVIDIA, "cuda:2", "cuda:2", "bfloat16"),
        (AMD, "rocm:0", "cuda:0", "bfloat16"),
        (INTEL, "xpu:0", "xpu:0", "bfloat16"),
        (APPLE, "mps:0", "mps:0", "float16"),
    ],
)
def test_auto_takes_the_best_of_each_machine(
    facts: Facts, name: str, torch_name: str, dtype: str
) -> None:
    device = select_device(facts=facts)
    assert (str(device), device.torch_name, device.dtype) == (name, torch_name, dtype)
    assert device.reason
    assert dtype_reason(device)


def test_rocm_where_only_torch_can_count() -> None:
    build = TorchBuild(version="2.13.0+rocm7.2", hip="7.2", counted=(GPU(name="GPU"),))
    device = select_device("rocm", facts=replace(PLAIN, torch=build))
    assert (str(device), device.dtype) == ("rocm:0", "float16")


def test_the_cpu_knows_its_features() -> None:
    device = select_device("cpu", facts=NVIDIA)
    assert device.reason == "asked for as 'cpu'"
    assert (device.isa, device.cores) == (("avx2", "amx_bf16"), 4)
    assert (device.memory_total, device.memory_free) == (8 * GIB, GIB)


def test_an_index_takes_that_card_and_none_takes_the_best() -> None:
    assert select_device("cuda:0", facts=NVIDIA).name == "Tesla V100"
    assert select_device("cuda", facts=NVIDIA).name == "NVIDIA H100"
    assert select_device("cuda:0", facts=NVIDIA).reason.startswith("asked for as 'cuda:0'; torch")


def test_a_sequence_gives_a_list() -> None:
    devices = select_device(["cuda:1", "cpu"], facts=NVIDIA)
    assert [device.name for device in devices] == ["NVIDIA A100", "Xeon"]
    assert select_device(("auto",), facts=NVIDIA)[0].name == "NVIDIA H100"


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_means_rocm_under_a_rocm_build_and_says_so(name: str) -> None:
    device = select_device(name, facts=AMD)
    assert str(device) == "rocm:0"
    assert "torch's name for ROCm" in device.reason


@pytest.mark.parametrize(
    ("facts", "name", "says"),
    [
        (PLAIN, "cuda", "there is no such device here. Usable: cpu (Xeon)"),
        (NVIDIA, "cuda:3", "there is no such device here. Usable: cuda:2 (NVIDIA H100), cuda:1"),
        (NVIDIA, "rocm", "there is no such device here"),
        (replace(NVIDIA, amd=AMD.amd), "rocm", "is a CUDA 12.6 build; AMD Instinct MI300X is"),
        (replace(NVIDIA, torch=PLAIN.torch), "cuda:1", "is a CPU build; an NVIDIA driver"),
        (AMD, "cuda:1", "'cuda:1' (torch's name for ROCm) cannot be used"),
        (APPLE, "mps:1", "Usable: mps:0 (Apple M2 Max), cpu (Xeon)"),
        (INTEL, "mps", "there is no such device here"),
    ],
)
def test_an_absent_device_says_why_and_what_is_here(facts: Facts, name: str, says: str) -> None:
    with pytest.raises(DeviceNotFoundError) as caught:
        select_device(name, facts=facts)
    assert says in str(caught.value)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:-1", "cuda:a", "cpu:0", "CUDA", "cuda:0\n"]
)
def test_a_name_that_is_none_lists_the_forms(name: str) -> None:
    with pytest.raises(ValueError, match="is not a device: write auto, cpu, cuda") as caught:
        select_device(name, facts=NVIDIA)
    assert not isinstance(caught.value, DeviceNotFoundError)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="empty list of devices"):
        select_device([], facts=NVIDIA)


@pytest.mark.parametrize(
    ("kind", "capability", "isa", "dtype"),
    [
        ("cuda", "12.0", (), "bfloat16"),
        ("cuda", "8.0", (), "bfloat16"),
        ("cuda", "7.5", (), "float16"),
        ("cuda", "7.0", (), "float16"),
        ("cuda", "6.1", (), "float32"),
        ("cuda", "6.0", (), "float16"),
        ("cuda", "5.3", (), "float32"),
        ("cuda", None, (), "float32"),
        ("rocm", "gfx90a", (), "bfloat16"),
        ("rocm", "gfx942", (), "bfloat16"),
        ("rocm", "gfx950", (), "bfloat16"),
        ("rocm", "gfx1100", (), "bfloat16"),
        ("rocm", "gfx1201", (), "bfloat16"),
        ("rocm", "gfx1030", (), "float16"),
        ("rocm", "gfx906", (), "float16"),
        ("rocm", None, (), "float16"),
        ("xpu", None, (), "bfloat16"),
        ("mps", None, (), "float16"),
        ("cpu", None, ("avx512f", "avx512_bf16"), "bfloat16"),
        ("cpu", None, ("amx_bf16",), "bfloat16"),
        ("cpu", None, ("neon", "bf16"), "bfloat16"),
        ("cpu", None, ("avx512f", "avx512_vnni"), "float32"),
        ("cpu", None, (), "float32"),
    ],
)
def test_each_kind_of_device_has_its_dtype_and_a_reason(
    kind: str, capability: str | None, isa: tuple[str, ...], dtype: str
) -> None:
    chosen, reason = choose_dtype(kind, capability, isa)
    assert chosen == dtype
    assert reason


@pytest.mark.parametrize(
    ("name", "isa", "dtype"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU", ("avx512_bf16", "avx512_fp16"), "float32"),
        (
            "Intel(R) Xeon(R) Platinum 8481C CPU",
            ("avx512_bf16", "avx512_fp16", "amx_bf16"),
            "bfloat16",
        ),
        ("Intel(R) Xeon(R) Platinum 8380H CPU", ("avx512_bf16",), "bfloat16"),  # Cooper Lake
        ("AMD EPYC 9965", ("avx512_bf16", "avx512_fp16"), "bfloat16"),
    ],
)
def test_bfloat16_without_amx_gains_nothing_on_new_intel_cpus(
    name: str, isa: tuple[str, ...], dtype: str
) -> None:
    assert choose_dtype("cpu", None, isa, name)[0] == dtype
    cpu = CPU(name=name, isa=isa)
    device = list_devices(Facts(cpu=cpu))[0]
    assert device.dtype == dtype
    assert ("AMX" in dtype_reason(device)) == (dtype == "float32")


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_importing_imports_no_torch() -> None:
    code = (
        "import langchain_gpu.hardware.devices, langchain_gpu.hardware.memory, sys, json;"
        "print(json.dumps([m for m in ('torch', 'pynvml', 'psutil') if m in sys.modules]))"
    )
    assert json.loads(run(code)) == []


def test_looking_at_this_machine_leaves_it_able_to_fork() -> None:
    code = (
        "from langchain_gpu.hardware.devices import list_devices, select_device;"
        "select_device('auto'); list_devices();"
        "import torch; print(torch.cuda.is_initialized(), torch.xpu.is_initialized())"
    )
    assert run(code).split() == ["False", "False"]


def test_auto_works_on_this_machine() -> None:
    assert select_device("auto").reason
    assert select_device("cpu").kind == "cpu"
    assert list_devices()[-1].kind == "cpu"


def test_a_device_of_torch_is_a_name() -> None:
    device = torch.device("cuda", 1)
    assert str(select_device(device, facts=NVIDIA)) == "cuda:1"  # type: ignore[call-overload]
