"""The installed torch: which accelerators it was built for, and what it reports.

No call here initializes CUDA. `torch.cuda.is_available()` does (it calls `cuInit`, which a forked
child does not survive, unless PYTORCH_NVML_BASED_CUDA_CHECK=1 was set in time), and
`get_device_name` and `get_device_properties` make a whole context. So the build is read from
`torch/version.py` without importing torch, the list of compiled kernels from the function behind
`torch.cuda.get_arch_list` (a constant of the build; the public one asks `is_available` first in
older releases), and the cards from their drivers.
"""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_gpu.hardware.gpu import GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """The installed torch.

    Attributes:
        version: For example `"2.13.0+cpu"`.
        cuda: The CUDA it was built with, None for other builds.
        hip: The ROCm it was built with, None for other builds.
        xpu: The Intel SYCL toolkit it was built with, None for other builds.
        archs: Kernels inside: `sm_90`, `compute_90`, `gfx1100`. Empty where unknown.
        mps: Whether Apple's Metal works here.
        counted: Cards only torch can list: Intel ones, and AMD ones without Linux's own driver.
        error: Why importing it fails, None where it works or was not tried.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None
    xpu: str | None = None
    archs: tuple[str, ...] = ()
    mps: bool = False
    counted: tuple[GPU, ...] = ()
    error: str | None = None


def read_build() -> TorchBuild | None:
    """Describe the installed torch without importing it, None where there is none."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / "version.py"
    if not file.exists():  # leftovers of an uninstalled torch
        return None
    constants = runpy.run_path(str(file))
    return TorchBuild(
        version=str(constants["__version__"]),
        cuda=constants.get("cuda"),
        hip=constants.get("hip"),
        xpu=constants.get("xpu"),
    )


def look_inside(build: TorchBuild) -> TorchBuild:
    """Import torch, which takes a second or two, and add what only it knows to `build`."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of the wheel is missing
        return replace(build, error=str(error))
    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()  # noqa: SLF001 (see the top)
    counted: tuple[GPU, ...] = ()
    if build.xpu:
        counted = _count(torch.xpu, "Intel GPU")
    elif build.hip and without_kernel_files():
        counted = _count(torch.cuda, "AMD GPU")
    return replace(
        build,
        archs=tuple((flags or "").split()),
        mps=torch.backends.mps.is_available(),
        counted=counted,
    )


def without_kernel_files() -> bool:
    """Say whether this is Windows or WSL, where no file of the kernel shows a card."""
    return sys.platform == "win32" or Path("/dev/dxg").exists()


def _count(api: Any, name: str) -> tuple[GPU, ...]:
    """List the cards of `torch.xpu` or `torch.cuda`; names would initialize an idle one."""
    count: int = api.device_count()
    if not api.is_initialized():
        return (GPU(name=name),) * count
    found = (api.get_device_properties(index) for index in range(count))
    return tuple(
        GPU(
            name=card.name,
            capability=getattr(card, "gcnArchName", None),
            memory_total=card.total_memory,
        )
        for card in found
    )


__all__ = ["TorchBuild", "look_inside", "read_build", "without_kernel_files"]
