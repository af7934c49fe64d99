"""Every classic trap is named, with the line that gets out of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_gpu.hardware.amd import Amd
from langchain_gpu.hardware.cpu import CPU
from langchain_gpu.hardware.devices import (
    DeviceNotFoundError,
    list_devices,
    problems,
    select_device,
)
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import NO_DRIVER, NO_LIBRARY, NO_PACKAGE, Nvidia
from langchain_gpu.hardware.torch_build import TorchBuild
from langchain_gpu.hardware.wheels import cuda_remedy, rocm_remedy, runs_on, version

WHEEL = "pip install --force-reinstall torch -i https://download.pytorch.org/whl/"
H100 = GPU(name="NVIDIA H100", capability="9.0")
NAVI31 = GPU(name="AMD Radeon RX 7900 XTX", capability="gfx1100")
DRIVER = Nvidia(gpus=(H100,), driver="580.95", cuda=(13, 0))
CU130 = TorchBuild(
    version="2.13.0+cu130", cuda="13.0", archs=("sm_80", "sm_90", "sm_120", "compute_120")
)
ROCM = TorchBuild(version="2.13.0+rocm7.2", hip="7.2.1", archs=("gfx90a", "gfx1030", "gfx1100"))
CPU_BUILD = TorchBuild(version="2.13.0+cpu")
NVIDIA_BOX = Facts(cpu=CPU(name="x86"), nvidia=DRIVER, torch=CU130)
AMD_BOX = Facts(cpu=CPU(name="x86"), amd=Amd(gpus=(NAVI31,)), torch=ROCM)


def only(facts: Facts) -> tuple[str, str]:
    """Return the one problem, and check that the CPU's reason is the same."""
    (problem,) = problems(facts)
    device = select_device("auto", facts=facts)
    assert device.kind == "cpu"
    assert device.reason == f"{problem.what}: {problem.remedy}"
    return problem.what, problem.remedy


def test_machines_in_order_have_none() -> None:
    assert problems(NVIDIA_BOX) == problems(AMD_BOX) == []
    assert problems(Facts(cpu=CPU(name="x86"), torch=CPU_BUILD)) == []


def test_torch_is_a_cpu_build_beside_an_nvidia_card() -> None:
    what, remedy = only(replace(NVIDIA_BOX, torch=CPU_BUILD))
    assert what == (
        "torch 2.13.0+cpu is a CPU build; an NVIDIA driver (580.95, CUDA 13.0) and NVIDIA H100 "
        "are present"
    )
    assert remedy == f"{WHEEL}cu130"


def test_torch_is_a_cpu_build_beside_an_amd_card() -> None:
    what, remedy = only(replace(AMD_BOX, torch=CPU_BUILD))
    assert "CPU build" in what
    assert "7900" in what
    assert remedy == f"{WHEEL}rocm7.2"


def test_torch_is_not_installed() -> None:
    what, remedy = only(replace(NVIDIA_BOX, torch=None))
    assert what.endswith("but torch is not installed")
    assert remedy == f'{WHEEL}cu130, then pip install "langchain-gpu[local]"'
    cpu = select_device("auto", facts=Facts(cpu=CPU(name="x86")))
    assert cpu.reason == "no GPU was found, and torch is not installed"


def test_torch_cannot_be_imported() -> None:
    broken = replace(CU130, error="libcudnn.so.9: cannot open shared object file")
    what, remedy = only(replace(NVIDIA_BOX, torch=broken))
    assert "libcudnn.so.9" in what
    assert remedy == f"{WHEEL}cu130"


def test_torch_has_no_kernels_for_the_card() -> None:
    old = replace(DRIVER, gpus=(GPU(name="GTX 1080", capability="6.1"),))
    what, remedy = only(replace(NVIDIA_BOX, nvidia=old))
    assert "no kernels for GTX 1080 (compute capability 6.1; built for sm_80, sm_90" in what
    assert remedy == f"{WHEEL}cu126"
    new = replace(DRIVER, gpus=(GPU(name="RTX 5090", capability="12.0"),))
    cu124 = TorchBuild(version="2.6.0+cu124", cuda="12.4", archs=("sm_50", "sm_80", "sm_90"))
    assert only(replace(NVIDIA_BOX, nvidia=new, torch=cu124))[1] == f"{WHEEL}cu130"


@pytest.mark.parametrize(
    ("driver", "fine"), [((13, 0), True), ((13, 3), True), ((14, 0), True), ((12, 9), False)]
)
def test_cuda_runs_on_an_older_driver_of_the_same_major_version(
    driver: tuple[int, int], *, fine: bool
) -> None:
    build = replace(CU130, version="2.13.0+cu132", cuda="13.2")
    facts = replace(NVIDIA_BOX, torch=build, nvidia=replace(DRIVER, cuda=driver))
    assert (problems(facts) == []) is fine


def test_the_driver_is_older_than_the_build() -> None:
    driver = replace(DRIVER, driver="535.104", cuda=(12, 2))
    what, remedy = only(replace(NVIDIA_BOX, nvidia=driver))
    assert "built for CUDA 13.0" in what
    assert "(535.104, CUDA 12.2) is older" in what
    assert remedy == f"update the driver to R580 or later, or {WHEEL}cu126"


def test_ptx_needs_a_driver_as_new_as_the_build() -> None:
    build = TorchBuild(version="2.9.0", cuda="12.8", archs=("sm_80", "compute_90"))
    blackwell = (GPU(name="RTX 5090", capability="12.0"),)
    facts = replace(NVIDIA_BOX, torch=build)
    assert problems(replace(facts, nvidia=replace(DRIVER, gpus=blackwell))) == []
    assert problems(replace(facts, nvidia=replace(DRIVER, gpus=blackwell, cuda=(12, 4))))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("RM has detected an NVML/RM version mismatch.", "reboot"),
        ("Driver Not Loaded", "nvidia-smi"),
        (NO_PACKAGE, "pip install nvidia-ml-py"),
        (NO_LIBRARY, "--gpus all"),
        (NO_DRIVER, "ubuntu-drivers"),
    ],
)
def test_nvml_fails(error: str, remedy: str) -> None:
    found = only(replace(NVIDIA_BOX, nvidia=Nvidia(error=error)))
    assert error in found[0]
    assert remedy in found[1]


def test_a_card_that_fell_off_the_bus() -> None:
    lost = replace(DRIVER, gpus=(GPU(name="NVIDIA GPU"),))
    assert "does not answer" in only(replace(NVIDIA_BOX, nvidia=lost))[0]


@pytest.mark.parametrize(
    ("box", "variable", "value"),
    [
        (NVIDIA_BOX, "CUDA_VISIBLE_DEVICES", ""),
        (NVIDIA_BOX, "CUDA_VISIBLE_DEVICES", "7"),
        (NVIDIA_BOX, "CUDA_VISIBLE_DEVICES", "MIG-gone"),
        (AMD_BOX, "HIP_VISIBLE_DEVICES", ""),
        (AMD_BOX, "ROCR_VISIBLE_DEVICES", ""),
        (AMD_BOX, "CUDA_VISIBLE_DEVICES", "-1"),
    ],
)
def test_every_card_is_hidden(box: Facts, variable: str, value: str) -> None:
    what, remedy = only(replace(box, environ={variable: value}))
    state = repr(value) if value else "set but empty"
    assert what.startswith(f"{variable} is {state}")
    assert remedy.startswith(f"unset {variable}")


def test_the_variable_that_hides_is_the_one_named() -> None:
    environ = {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}
    assert only(replace(AMD_BOX, environ=environ))[0].startswith("HIP_VISIBLE_DEVICES is '1'")


@pytest.mark.parametrize("value", ["", "gfx1030", "10.3"])
def test_rocm_override_that_is_no_version(value: str) -> None:
    what, remedy = only(replace(AMD_BOX, environ={"HSA_OVERRIDE_GFX_VERSION": value}))
    assert ("set but empty" in what) is (value == "")
    assert remedy == "unset HSA_OVERRIDE_GFX_VERSION"


def test_rocm_has_no_kernels_until_it_is_told_to_use_a_relatives() -> None:
    facts = replace(AMD_BOX, amd=Amd(gpus=(GPU(name="RX 6750 XT", capability="gfx1031"),)))
    what, remedy = only(facts)
    assert "gfx1031; built for gfx90a, gfx1030, gfx1100" in what
    assert remedy.startswith("export HSA_OVERRIDE_GFX_VERSION=10.3.0")
    told = replace(facts, environ={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"})
    assert problems(told) == []
    device = select_device("auto", facts=told)
    assert device.capability == "gfx1030"
    assert "the card is gfx1031" in device.reason


@pytest.mark.parametrize(
    ("amd", "remedy"),
    [
        (Amd(gpus=(NAVI31,), compute=False), "--device=/dev/kfd"),
        (Amd(gpus=(NAVI31,), allowed=False), "usermod -aG render"),
    ],
)
def test_kfd_is_closed(amd: Amd, remedy: str) -> None:
    assert remedy in only(replace(AMD_BOX, amd=amd))[1]


def test_an_intel_card() -> None:
    facts = Facts(cpu=CPU(name="x86"), intel=("8086:56a0",), torch=CPU_BUILD)
    assert only(facts)[1].endswith(f"{WHEEL}xpu")
    assert [problem.severity for problem in problems(facts)] == ["advice"]  # it may be too old
    xpu = TorchBuild(version="2.13.0+xpu", xpu="2025.3")
    assert "compute runtime" in only(replace(facts, torch=xpu))[1]


def test_an_intel_chip_beside_a_card_that_waits_for_its_torch() -> None:
    facts = replace(NVIDIA_BOX, torch=CPU_BUILD, intel=("8086:a7a0",))
    assert only(facts)[1] == f"{WHEEL}cu130"
    with pytest.raises(DeviceNotFoundError, match="Intel GPU"):
        select_device("xpu", facts=facts)


def test_a_mac_without_metal() -> None:
    facts = Facts(cpu=CPU(name="Apple M1"), apple=GPU(name="Apple M1"), torch=CPU_BUILD)
    assert "macOS" in only(facts)[1]
    assert "not installed" in only(replace(facts, torch=None))[0]


def test_the_other_makers_card_is_no_problem_beside_one_that_works() -> None:
    facts = replace(NVIDIA_BOX, amd=Amd(gpus=(NAVI31,)), intel=("8086:4680",))
    assert problems(facts) == []
    assert [str(device) for device in list_devices(facts)] == ["cuda:0", "cpu"]


def test_eight_like_cards_are_one_problem() -> None:
    facts = replace(NVIDIA_BOX, nvidia=replace(DRIVER, gpus=(H100,) * 8), torch=CPU_BUILD)
    only(facts)


def test_cards_that_differ_may_be_counted_in_another_order() -> None:
    two = replace(DRIVER, gpus=(H100, GPU(name="NVIDIA A100", capability="8.0")))
    facts = replace(NVIDIA_BOX, nvidia=two)
    assert [problem.remedy for problem in problems(facts)] == [
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID"
    ]
    assert problems(replace(facts, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})) == []


@pytest.mark.parametrize(
    ("card", "archs", "runs"),
    [
        ((9, 0), ["sm_90"], True),
        ((12, 0), ["sm_90"], False),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((8, 7), ["sm_80"], False),
        ((8, 9), ["sm_87"], False),
        ((8, 7), ["sm_87"], True),
        ((12, 1), ["sm_120"], True),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((8, 0), ["compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["compute_90a"], False),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["compute_100f"], False),
        ((9, 0), ["gfx90a", "sm_x"], False),
    ],
)
def test_which_code_runs_where(card: tuple[int, int], archs: list[str], *, runs: bool) -> None:
    assert runs_on(card, archs) is runs


@settings(deadline=None)
@given(card=st.tuples(st.integers(5, 13), st.integers(0, 9)), arch=st.integers(50, 129))
def test_code_of_a_card_runs_on_it_and_later_code_never(card: tuple[int, int], arch: int) -> None:
    assert runs_on(card, [f"sm_{card[0]}{card[1]}"])
    if divmod(arch, 10) > card:
        assert not runs_on(card, [f"sm_{arch}", f"compute_{arch}"])


@pytest.mark.parametrize(
    ("card", "driver", "remedy"),
    [
        ("9.0", (13, 0), f"{WHEEL}cu130"),
        ("9.0", None, f"{WHEEL}cu130"),
        ("9.0", (12, 4), f"{WHEEL}cu126"),
        ("12.0", (12, 8), f"{WHEEL}cu129"),
        ("6.1", (13, 0), f"{WHEEL}cu126"),
        ("9.0", (11, 8), f"update the NVIDIA driver, then {WHEEL}cu130"),
        ("3.5", (12, 4), "build torch from source with TORCH_CUDA_ARCH_LIST=3.5"),
    ],
)
def test_which_wheel_fits(card: str, driver: tuple[int, int] | None, remedy: str) -> None:
    assert cuda_remedy(card, driver).startswith(remedy)


def test_a_chip_without_relatives_needs_a_build_of_its_own() -> None:
    assert "PYTORCH_ROCM_ARCH=gfx803" in rocm_remedy("gfx803", ["gfx90a", "gfx1030"])


@pytest.mark.parametrize(
    ("dotted", "pair"), [("13.0", (13, 0)), ("12", (12, 0)), ("7.2.26015-9a", (7, 2)), ("", (0, 0))]
)
def test_a_version_is_read_as_two_numbers(dotted: str, pair: tuple[int, int]) -> None:
    assert version(dotted) == pair
