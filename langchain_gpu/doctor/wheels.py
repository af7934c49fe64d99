"""Wheels that overwrite one another, or that were built for other hardware."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from langchain_gpu.doctor.cards import cards
from langchain_gpu.doctor.environment import Environment
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.traps import Problem, advise
from langchain_gpu.hardware.wheels import onnx_extra, version
from langchain_gpu.utils.extras import install_line

_Wheel = tuple[str, tuple[int, int], tuple[int, int], tuple[int, int]]
# FAISS's wheels for GPUs, the lighter first: extra, CUDA, compute capabilities (first, last).
_FAISS: tuple[_Wheel, ...] = (
    ("faiss-gpu", (12, 6), (7, 0), (9, 0)),
    ("faiss-gpu-cuvs", (13, 2), (7, 5), (12, 9)),
)


def wheel_problems(
    env: Environment, facts: Facts, devices: Sequence[Device], proven: Collection[str] = ()
) -> list[Problem]:
    """Return what is wrong with the wheels of FAISS and of ONNX Runtime.

    Args:
        env: What is installed.
        facts: The machine.
        devices: What of it torch can use.
        proven: Devices on which a search by FAISS was tried and was right.
    """
    faiss, onnx = env.wheels.get("faiss", {}), env.wheels.get("onnxruntime", {})
    gpus = cards(facts, devices)
    cuda = next((device for device in gpus if device.kind == "cuda"), None)
    best = gpus[0].kind if gpus else "cpu"
    extra = "faiss" if cuda is None else _fitting(cuda, facts) or "faiss"
    found = clash(faiss, "faiss", extra)
    found += clash(onnx, "onnxruntime", onnx_extra(best))
    if len(faiss) == 1:
        (wheel,) = faiss
        found += _faiss_here(wheel, faiss[wheel], facts, gpus, proven)
    return found


def clash(wheels: Mapping[str, str], module: str, extra: str) -> list[Problem]:
    """Tell that more than one of `wheels` brings `module`.

    Args:
        wheels: Distribution -> version.
        module: What each of them holds.
        extra: What to install in their place.
    """
    names = sorted(wheels)
    if len(names) < 2:  # noqa: PLR2004 (one is right)
        return []
    return [
        Problem(
            "cpu",
            f"{' and '.join(names)} overwrite one another: each is the module `{module}`",
            f"pip uninstall -y {' '.join(names)} && {install_line(extra)}",
        )
    ]


def faiss_remedy(device: Device, facts: Facts, wheel: str) -> str:
    """Return what brings a FAISS with kernels for a CUDA `device` in place of `wheel`."""
    extra = _fitting(device, facts)
    if extra is not None:
        return f"pip uninstall -y {wheel} && {install_line(extra)}"
    capability = version(device.capability or "0")
    if any(low <= capability <= high for _, _, low, high in _FAISS):
        return "update the NVIDIA driver to R580 or later, and run the doctor again"
    return (
        f"pip uninstall -y {wheel} && {install_line('faiss')}: no wheel of FAISS has kernels for "
        "this card, and the store searches on it by torch"
    )


def _faiss_here(
    wheel: str, here: str, facts: Facts, gpus: Sequence[Device], proven: Collection[str]
) -> list[Problem]:
    cuda = [device for device in gpus if device.kind == "cuda"]
    others = [device for device in gpus if device.kind in {"rocm", "xpu", "mps"}]
    built_for = next((entry for entry in _FAISS if entry[0] == wheel), None)
    if built_for is None and cuda:
        # A card that no wheel fits is searched by torch; there is nothing to install.
        if _fitting(cuda[0], facts) is None:
            return []
        what = f"{wheel} {here} searches on the CPU, and there is {cuda[0]} ({cuda[0].name})"
        return [advise("cuda", what, faiss_remedy(cuda[0], facts, wheel))]
    if built_for is not None and not cuda:
        what = f"{wheel} {here} is for NVIDIA GPUs, and none can be used here"
        remedy = f"pip uninstall -y {wheel} && {install_line('faiss')}"
        return [advise("cuda", what, remedy)]
    if others and wheel == "faiss-cpu":
        kind = others[0].kind
        what = f"FAISS has no wheel for {others[0]} ({others[0].name}): torch searches there"
        return [advise(kind, what, f'FAISSVectorStore(..., device="{kind}") asks for it')]
    if built_for is None:
        return []
    unfit = (
        (device, why)
        for device in cuda
        if str(device) not in proven and (why := _unfit(built_for, device, facts)) is not None
    )
    found = (
        Problem("cuda", f"{wheel} {here} {why}", faiss_remedy(device, facts, wheel))
        for device, why in unfit
    )
    return list(dict.fromkeys(found))


def _unfit(wheel: _Wheel, device: Device, facts: Facts) -> str | None:
    """Say why a GPU wheel of FAISS does not run on a CUDA `device`, None where it does."""
    _, needs, low, high = wheel
    driver = facts.nvidia.cuda
    if driver is not None and driver[0] < needs[0]:
        return (
            f"was built for CUDA {needs[0]}.{needs[1]}, and the NVIDIA driver "
            f"({facts.nvidia.driver}, CUDA {driver[0]}.{driver[1]}) is older"
        )
    if not low <= version(device.capability or "0") <= high:
        return (
            f"has no kernels for {device.name} (compute capability {device.capability}; built for "
            f"{low[0]}.{low[1]} to {high[0]}.{high[1]})"
        )
    return None


def _fitting(device: Device, facts: Facts) -> str | None:
    """Return the extra whose FAISS runs on a CUDA `device`, None where there is none."""
    capability, driver = version(device.capability or "0"), facts.nvidia.cuda
    for extra, cuda, low, high in _FAISS:
        if low <= capability <= high and (driver is None or driver[0] >= cuda[0]):
            return extra
    return None


__all__ = ["clash", "faiss_remedy", "wheel_problems"]
