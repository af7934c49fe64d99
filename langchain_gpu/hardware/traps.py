"""Reasons why a card that is present cannot be used, each with a remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU, Kind, visible, visible_amd, visible_nvidia
from langchain_gpu.hardware.nvidia import NO_DRIVER, NO_LIBRARY, NO_PACKAGE
from langchain_gpu.hardware.torch_build import TorchBuild
from langchain_gpu.hardware.wheels import (
    ROCM_WHEEL,
    XPU_WHEEL,
    cuda_remedy,
    reinstall,
    rocm_remedy,
    runs_on,
    version,
)
from langchain_gpu.utils.extras import install_line

_OURS = install_line("local")
# The oldest driver branch of each CUDA major version.
_DRIVERS = {11: "R450", 12: "R525", 13: "R580"}


Severity = Literal["problem", "advice"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a device from being used, or that makes it slower or less sure.

    Attributes:
        kind: The kind of device.
        what: The fact, in a sentence.
        remedy: What to type or to change.
        severity: `"problem"` keeps hardware from being used; `"advice"` does not.
    """

    kind: Kind
    what: str
    remedy: str
    severity: Severity = "problem"

    def __str__(self) -> str:
        """Return both as one line."""
        return f"{self.what}: {self.remedy}"


def advise(kind: Kind, what: str, remedy: str) -> Problem:
    """Return what keeps nothing from being used, and is still worth a word."""
    return Problem(kind, what, remedy, severity="advice")


def machine_problems(facts: Facts) -> list[Problem]:
    """Problems of no single card: a driver that does not answer, all cards hidden."""
    found = []
    if facts.nvidia.error is not None:
        what = f"an NVIDIA GPU cannot be used: {facts.nvidia.error}"
        found.append(Problem("cuda", what, _driver_remedy(facts.nvidia.error)))
    if facts.nvidia.gpus and not visible_nvidia(facts.nvidia.gpus, facts.environ):
        found.append(_hidden("cuda", "CUDA_VISIBLE_DEVICES", facts))
    if facts.amd.gpus and not visible_amd(facts.amd.gpus, facts.environ):
        by_rocr = not visible(facts.amd.gpus, facts.environ.get("ROCR_VISIBLE_DEVICES"))
        by_hip = "HIP" if "HIP_VISIBLE_DEVICES" in facts.environ else "CUDA"
        found.append(_hidden("rocm", f"{'ROCR' if by_rocr else by_hip}_VISIBLE_DEVICES", facts))
    return found


def order_problem(facts: Facts) -> Problem | None:
    """Say that `cuda:0` may be another card than the one described here, None where it is sure."""
    by_bus = facts.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if by_bus or len({gpu.name for gpu in facts.nvidia.gpus}) < 2:  # noqa: PLR2004 (alike)
        return None
    return advise(
        "cuda",
        "the NVIDIA cards differ: CUDA counts the fastest first, the driver (nvidia-smi, and the "
        "names here) counts by slot, so cuda:0 may be another card",
        "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
    )


def nvidia_problem(gpu: GPU, facts: Facts) -> Problem | None:
    """Say why CUDA cannot use `gpu` here, None where it can."""
    torch, driver = facts.torch, facts.nvidia
    newest = "CUDA unknown" if driver.cuda is None else f"CUDA {driver.cuda[0]}.{driver.cuda[1]}"
    here = f"an NVIDIA driver ({driver.driver}, {newest}) and {gpu.name} are present"
    if gpu.capability is None:
        return Problem(
            "cuda",
            f"{gpu.name} does not answer its driver",
            "see `nvidia-smi` and dmesg; a reboot helps",
        )
    if torch is None or torch.error is not None or torch.cuda is None:
        return _wrong_torch("cuda", torch, here, cuda_remedy(gpu.capability, driver.cuda))
    build = version(torch.cuda)
    if driver.cuda is not None and driver.cuda[0] < build[0]:
        return Problem(
            "cuda",
            f"torch {torch.version} was built for CUDA {torch.cuda}, and the NVIDIA driver "
            f"({driver.driver}, {newest}) is older",
            f"update the driver to {_DRIVERS.get(build[0], 'the newest')} or later, or "
            f"{cuda_remedy(gpu.capability, driver.cuda)}",
        )
    # Kernels in the form of PTX are compiled by the driver, which must know the PTX's version.
    ptx = driver.cuda is None or driver.cuda >= build
    if torch.archs and not runs_on(version(gpu.capability), torch.archs, ptx=ptx):
        return Problem(
            "cuda",
            f"torch {torch.version} has no kernels for {gpu.name} (compute capability "
            f"{gpu.capability}; built for {', '.join(torch.archs)})",
            cuda_remedy(gpu.capability, driver.cuda),
        )
    return None


def amd_problem(gpu: GPU, facts: Facts) -> Problem | None:
    """Say why ROCm cannot use `gpu` here, None where it can."""
    torch, override = facts.torch, facts.environ.get("HSA_OVERRIDE_GFX_VERSION")
    if torch is None or torch.error is not None or torch.hip is None:
        return _wrong_torch("rocm", torch, f"{gpu.name} is present", reinstall(ROCM_WHEEL))
    if not facts.amd.compute:
        return Problem(
            "rocm",
            f"{gpu.name} is present, but there is no /dev/kfd, through which ROCm computes",
            "load the kernel module amdgpu; start a container with "
            "`--device=/dev/kfd --device=/dev/dri`",
        )
    if not facts.amd.allowed:
        return Problem(
            "rocm",
            f"{gpu.name} is present, but this user may not open /dev/kfd",
            'sudo usermod -aG render,video "$USER" and log in again; start a container with '
            "`--group-add render --group-add video`",
        )
    if override is not None and _override_arch(override) is None:
        state = "empty" if not override.strip() else f"{override!r}, which is not a version"
        return Problem(
            "rocm",
            f"HSA_OVERRIDE_GFX_VERSION is set but {state}, and the ROCm runtime refuses to start",
            "unset HSA_OVERRIDE_GFX_VERSION",
        )
    arch = amd_arch(gpu, facts)
    built = [name.partition(":")[0] for name in torch.archs]
    if arch is None or not built or arch in built or any("generic" in name for name in built):
        return None
    return Problem(
        "rocm",
        f"torch {torch.version} has no kernels for {gpu.name} ({arch}; built for "
        f"{', '.join(built)})",
        rocm_remedy(arch, built),
    )


def amd_arch(gpu: GPU, facts: Facts) -> str | None:
    """Return the architecture the ROCm runtime takes `gpu` for, its override counted."""
    override = facts.environ.get("HSA_OVERRIDE_GFX_VERSION")
    return (override and _override_arch(override)) or gpu.capability


def intel_problem(facts: Facts) -> Problem | None:
    """Say why the Intel card that is here cannot be used, None where it can or there is none."""
    torch = facts.torch
    if not facts.intel or (torch is not None and torch.counted):
        return None
    here = f"an Intel GPU ({facts.intel[0]}) is present"
    if torch is None or torch.error is not None or torch.xpu is None:
        remedy = f"if it is an Arc or a Core Ultra: {reinstall(XPU_WHEEL)}"
        # Most Intel display chips are none that torch could use, and their ids do not tell.
        return replace(_wrong_torch("xpu", torch, here, remedy), severity="advice")
    return Problem(
        "xpu",
        f"{here}, but torch {torch.version} finds none through Level Zero",
        "install Intel's compute runtime (libze-intel-gpu1, intel-opencl-icd) and join the group "
        "`render`",
    )


def apple_problem(facts: Facts) -> Problem | None:
    """Say why the Apple GPU that is here cannot be used, None where it can or there is none."""
    torch = facts.torch
    if facts.apple is None or (torch is not None and torch.mps):
        return None
    if torch is None or torch.error is not None:
        remedy = "pip install --force-reinstall torch"
        return _wrong_torch("mps", torch, f"{facts.apple.name} is present", remedy)
    return Problem(
        "mps",
        f"{facts.apple.name} is present, but torch {torch.version} has no working Metal",
        "pip install --force-reinstall torch, under macOS 14 or later",
    )


def _wrong_torch(kind: Kind, torch: TorchBuild | None, here: str, remedy: str) -> Problem:
    """Say that torch is missing, broken or built for something else; `remedy` installs it."""
    if torch is None:
        what, remedy = f"{here}, but torch is not installed", f"{remedy}, then {_OURS}"
    elif torch.error is not None:
        what = f"torch {torch.version} cannot be imported ({torch.error})"
    else:
        what = f"torch {torch.version} is a {_kind_of(torch)} build; {here}"
    return Problem(kind, what, remedy)


def _kind_of(torch: TorchBuild) -> str:
    if torch.cuda:
        return f"CUDA {torch.cuda}"
    if torch.hip:
        return "ROCm"
    return "Intel XPU" if torch.xpu else "CPU"


def _override_arch(value: str) -> str | None:
    match = re.fullmatch(r"\s*(\d+)\.(\d+)\.(\d+)", value)
    return f"gfx{match[1]}{int(match[2]):x}{int(match[3]):x}" if match else None


def _hidden(kind: Kind, name: str, facts: Facts) -> Problem:
    value = facts.environ[name]
    # Set but empty is the classic: compose files and job scripts pass an unset variable on so.
    state = f"{value!r}, which names no card here" if value.strip() else "set but empty"
    what = f"{name} is {state}, and hides every {'NVIDIA' if kind == 'cuda' else 'AMD'} GPU"
    return Problem(kind, what, f"unset {name}, or name one: {name}=0")


def _driver_remedy(error: str) -> str:
    if error == NO_PACKAGE:
        return "pip install nvidia-ml-py"
    if error == NO_DRIVER:
        return "install it (Ubuntu: `sudo ubuntu-drivers install`)"
    if "mismatch" in error:
        return "the driver was updated under the running kernel: reboot, or reload its module"
    container = "start a container with `--gpus all` and NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    return container if error == NO_LIBRARY else f"see what `nvidia-smi` says; {container}"


__all__ = [
    "Problem",
    "Severity",
    "advise",
    "amd_arch",
    "amd_problem",
    "apple_problem",
    "intel_problem",
    "machine_problems",
    "nvidia_problem",
    "order_problem",
]
