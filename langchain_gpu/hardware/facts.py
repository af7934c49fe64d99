"""The facts that device selection needs, as plain data; `devices` decides by them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from langchain_gpu.hardware.amd import Amd, read_amd
from langchain_gpu.hardware.cpu import CPU, read_cpu
from langchain_gpu.hardware.gpu import GPU, drm_cards
from langchain_gpu.hardware.nvidia import Nvidia, read_nvidia
from langchain_gpu.hardware.torch_build import (
    TorchBuild,
    look_inside,
    read_build,
    without_kernel_files,
)

_INTEL = 0x8086
# The variables that decide which cards a program sees, as what, and how they compute.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A machine, as found.

    Attributes:
        cpu: The processor.
        torch: The installed torch, None where there is none.
        nvidia: What NVML says.
        amd: What the kernel says of AMD cards.
        intel: PCI ids of Intel display cards.
        apple: The chip of an Apple silicon Mac, None elsewhere.
        environ: Those of `VARIABLES` that are set.
    """

    cpu: CPU
    torch: TorchBuild | None = None
    nvidia: Nvidia = field(default_factory=Nvidia)
    amd: Amd = field(default_factory=Amd)
    intel: tuple[str, ...] = ()
    apple: GPU | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


def read_facts() -> Facts:
    """Look at this machine.

    Makes no CUDA context, and imports torch only beside a card it was built for.
    """
    cpu = read_cpu()
    nvidia = read_nvidia()
    amd = read_amd()
    intel = tuple(drm_cards(_INTEL))
    apple = None
    if sys.platform == "darwin" and platform.machine() == "arm64":
        # The chip's memory is one pool: the CPU's numbers are the GPU's.
        apple = GPU(name=cpu.name, memory_total=cpu.memory_total, memory_free=cpu.memory_free)
    torch = read_build()
    if torch is not None and (
        (torch.cuda and nvidia.gpus)
        or (torch.hip and (amd.gpus or without_kernel_files()))
        or torch.xpu
        or apple
    ):
        torch = look_inside(torch)
    return Facts(
        cpu=cpu,
        torch=torch,
        nvidia=nvidia,
        amd=amd,
        intel=intel,
        apple=apple,
        environ={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


__all__ = ["VARIABLES", "Facts", "read_facts"]
