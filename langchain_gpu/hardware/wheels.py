"""Which wheels run on which card: torch's builds, and the extra that brings ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence

# PyTorch's own wheels, first choice first: tag, CUDA, and the compute capabilities (first, last)
# they run on. cu126 suits more drivers than cu129, which is for new cards on CUDA 12.
_CUDA_WHEELS = (
    ("cu130", (13, 0), (7, 5), (12, 9)),
    ("cu126", (12, 6), (5, 0), (9, 9)),
    ("cu129", (12, 9), (7, 5), (12, 9)),
)
ROCM_WHEEL = "rocm7.2"
XPU_WHEEL = "xpu"
# Embedded chips run no kernels but their own, although the major version says they might.
_EMBEDDED = {(5, 3), (6, 2), (7, 2), (8, 7)}


def runs_on(card: tuple[int, int], archs: Sequence[str], *, ptx: bool = True) -> bool:
    """Say whether code built for `archs` runs on a card of compute capability `card`.

    Binary code (`sm_80`) runs on its own and later minor versions of one major version; PTX
    (`compute_80`) is compiled by the driver for any later card; a suffix narrows both: `a` to
    exactly that version, `f` to its major version.

    Args:
        card: For example `(8, 6)`.
        archs: As torch names them.
        ptx: Whether the driver is new enough to compile this build's PTX.
    """
    for arch in archs:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if match is None:
            continue
        is_ptx, code, suffix = match[1] == "compute", (int(match[2]), int(match[3])), match[4]
        if is_ptx and not ptx:
            continue
        if code == card:
            return True
        if suffix == "a" or code > card:
            continue
        if code[0] == card[0] and not {code, card} & _EMBEDDED:
            return True
        if is_ptx and not suffix:
            return True
    return False


def cuda_remedy(card: str | None, driver: tuple[int, int] | None) -> str:
    """Return what brings a torch with kernels for `card` that `driver` can run.

    Args:
        card: Compute capability.
        driver: The newest CUDA the driver runs, None where unknown.
    """
    capability = version(card or "0")
    fitting = [wheel for wheel in _CUDA_WHEELS if wheel[2] <= capability <= wheel[3]]
    for tag, cuda, _, _ in fitting:
        if driver is None or driver[0] >= cuda[0]:
            return reinstall(tag)
    if fitting:
        return f"update the NVIDIA driver, then {reinstall(fitting[0][0])}"
    return (
        f"build torch from source with TORCH_CUDA_ARCH_LIST={card}: PyTorch's wheels leave it out"
    )


def rocm_remedy(arch: str, built: Sequence[str]) -> str:
    """Return what makes a torch `built` for other architectures run on `arch`."""
    # Chips of one family share their instructions: gfx1031 runs what was built for gfx1030.
    relative = next((name for name in built if name[:-1] == arch[:-1]), None)
    if relative is None:
        return f"build torch from source with PYTORCH_ROCM_ARCH={arch}"
    major, minor, step = relative[3:-2], int(relative[-2], 16), int(relative[-1], 16)
    return (
        f"export HSA_OVERRIDE_GFX_VERSION={major}.{minor}.{step} (AMD does not test this; it is "
        "widely used)"
    )


def onnx_extra(kind: str) -> str:
    """Return the extra, or what stands for one, whose ONNX Runtime suits a kind of device best."""
    return {"cuda": "onnx-gpu", "rocm": "onnx-migraphx", "xpu": "onnx-openvino"}.get(kind, "onnx")


def reinstall(tag: str) -> str:
    """Return the pip line for PyTorch's wheel `tag`."""
    # Without --force-reinstall pip takes an installed 2.13.0+cpu for the 2.13.0 it looks for.
    return f"pip install --force-reinstall torch -i https://download.pytorch.org/whl/{tag}"


def version(dotted: str) -> tuple[int, int]:
    """Read (major, minor) of `"13.0"`, `"12"` or `"7.2.26015"`."""
    parts = [int(part) for part in re.findall(r"\d+", dotted)] + [0, 0]
    return parts[0], parts[1]


__all__ = [
    "ROCM_WHEEL",
    "XPU_WHEEL",
    "cuda_remedy",
    "onnx_extra",
    "reinstall",
    "rocm_remedy",
    "runs_on",
    "version",
]
