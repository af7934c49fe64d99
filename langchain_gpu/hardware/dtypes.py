"""Which number format a device computes in, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence


def choose_dtype(
    kind: str, capability: str | None, isa: Sequence[str], name: str = ""
) -> tuple[str, str]:
    """Return (dtype, reason): the fastest format the hardware has units for.

    bfloat16 is preferred over float16 where both are fast: it has float32's range, so that models
    trained in it do not overflow.

    | device | dtype |
    |---|---|
    | CUDA 8.0 and newer | bfloat16 |
    | CUDA 7.x and 6.0 | float16 |
    | older CUDA, 6.1 and 6.2 among them (float16 runs at 1/64 of the speed there) | float32 |
    | ROCm gfx90a, gfx94x, gfx95x, gfx11xx, gfx12xx | bfloat16 |
    | other ROCm | float16 |
    | XPU | bfloat16 |
    | MPS | float16 |
    | CPU with amx_bf16, Arm with bf16 | bfloat16 |
    | CPU with avx512_bf16 | bfloat16 |
    | Intel CPU whose AMX is hidden, as by a virtual machine | float32 |
    | other CPU | float32 |

    Args:
        kind: `Device.kind`.
        capability: `Device.capability`.
        isa: `Device.isa`.
        name: `Device.name`.
    """
    if kind == "cuda":
        return _cuda(capability)
    if kind == "rocm" and not re.match(r"gfx(90a|9[45]|1[12])", capability or ""):
        return (
            "float16",
            f"fast on every AMD GPU; bfloat16 is not on {capability or 'an unknown one'}",
        )
    if kind == "mps":
        return "float16", "fast on every Apple GPU"
    if kind in {"rocm", "xpu"}:
        here = f"{capability} has" if capability else "Intel GPUs have"
        return "bfloat16", f"{here} units for it"
    return _cpu(isa, name)


def _cpu(isa: Sequence[str], name: str) -> tuple[str, str]:
    units = [feature for feature in ("amx_bf16", "avx512_bf16", "bf16") if feature in isa]
    if not units:
        return "float32", "the CPU has no units for less (avx512_bf16, amx_bf16, Arm bf16)"
    # Intel's CPUs got avx512_fp16 and AMX together. Those that show only the first have the second
    # hidden, and avx512_bf16 computes at half of float32's rate there.
    if units[0] == "avx512_bf16" and "avx512_fp16" in isa and name.startswith("Intel"):
        return "float32", "bfloat16 is slower on this CPU while its AMX is hidden"
    return "bfloat16", f"the CPU has {units[0]}"


def _cuda(capability: str | None) -> tuple[str, str]:
    if capability is None:
        return "float32", "the compute capability is unknown"
    major, minor = (int(part) for part in capability.split("."))
    if major >= 8:  # noqa: PLR2004 (Ampere)
        return "bfloat16", "fast from compute capability 8.0 on"
    if major == 7 or (major, minor) == (6, 0):  # noqa: PLR2004 (Volta, Turing; Pascal P100)
        return "float16", f"fast on compute capability {capability}; bfloat16 only from 8.0 on"
    return "float32", f"float16 is slow on compute capability {capability}"


__all__ = ["choose_dtype"]
