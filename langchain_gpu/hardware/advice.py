"""Advice on cards that are usable, but slower, smaller or less exact than they could be.

Facts in, sentences out, as in `traps`; nothing here decides where work runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU, Kind, visible_amd, visible_nvidia
from langchain_gpu.hardware.traps import Problem, advise, amd_arch

_HELD = 0.5  # of a card's memory in other programs' hands, from which on it is worth a word
_GIB = 2**30


def advice(facts: Facts) -> list[Problem]:
    """Return what could be better on this machine, each with its remedy.

    Args:
        facts: The machine.
    """
    found: list[Problem] = []
    for part in (_container, _override, _instances, _memory, _cuda_variables, _metal_variables):
        found.extend(part(facts))
    return found


def _container(facts: Facts) -> Iterator[Problem]:
    """Tell what NVIDIA's container toolkit was told; its variables mean nothing elsewhere."""
    given = facts.environ.get("NVIDIA_VISIBLE_DEVICES", "").strip()
    able = facts.environ.get("NVIDIA_DRIVER_CAPABILITIES", "").strip()
    if given and not facts.nvidia.gpus and facts.nvidia.error is None:
        told = given.lower() in {"none", "void"}
        yield advise(
            "cuda",
            f"NVIDIA_VISIBLE_DEVICES is {given!r}, "
            + (
                "which gives this container no NVIDIA GPU"
                if told
                else "as in NVIDIA's images, and there is no NVIDIA driver in this container"
            ),
            "start it with `--gpus all`; in Kubernetes ask for `nvidia.com/gpu: 1`",
        )
    words = {word.strip() for word in able.split(",")}
    if able and facts.nvidia.gpus and not words & {"all", "compute"}:
        yield advise(
            "cuda",
            f"NVIDIA_DRIVER_CAPABILITIES is {able!r}: without `compute` a container has no CUDA",
            "start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )


def _override(facts: Facts) -> Iterator[Problem]:
    """Tell that a card is taken for another one although torch has its own kernels."""
    built = {name.partition(":")[0] for name in (facts.torch.archs if facts.torch else ())}
    for gpu in dict.fromkeys(visible_amd(facts.amd.gpus, facts.environ)):
        arch = amd_arch(gpu, facts)
        if gpu.capability in built and arch != gpu.capability:
            yield advise(
                "rocm",
                f"HSA_OVERRIDE_GFX_VERSION makes {gpu.name} a {arch}, and torch has kernels for "
                f"what it is, {gpu.capability}",
                "unset HSA_OVERRIDE_GFX_VERSION",
            )


def _instances(facts: Facts) -> Iterator[Problem]:
    """Tell that CUDA shows one MIG instance of a card only, unless they are named."""
    if "MIG-" in facts.environ.get("CUDA_VISIBLE_DEVICES", ""):
        return
    for gpu in facts.nvidia.gpus:
        if len(gpu.instances) > 1:
            yield advise(
                "cuda",
                f"{gpu.name} is cut into {len(gpu.instances)} MIG instances, and CUDA shows the "
                "first of them only",
                "name another one: export CUDA_VISIBLE_DEVICES=MIG-... (nvidia-smi -L lists them)",
            )


def _memory(facts: Facts) -> Iterator[Problem]:
    """Tell that other programs hold most of a card's memory."""
    shown: list[tuple[Kind, int, GPU, str]] = [
        ("cuda", index, gpu, "`nvidia-smi`")
        for index, gpu in enumerate(visible_nvidia(facts.nvidia.gpus, facts.environ))
    ]
    shown += [
        ("rocm", index, gpu, "`rocm-smi --showpids`")
        for index, gpu in enumerate(visible_amd(facts.amd.gpus, facts.environ))
    ]
    for kind, index, gpu, tool in shown:
        if not gpu.memory_total or gpu.memory_free is None:
            continue
        held = gpu.memory_total - gpu.memory_free
        if held > _HELD * gpu.memory_total:
            yield advise(
                kind,
                f"programs hold {held / _GIB:.1f} of the {gpu.memory_total / _GIB:.1f} GiB of "
                f"{kind}:{index} ({gpu.name})",
                f"{tool} names them; close what you do not need",
            )


def _cuda_variables(facts: Facts) -> Iterator[Problem]:
    if not (facts.nvidia.gpus or facts.amd.gpus):
        return
    kind: Kind = "cuda" if facts.nvidia.gpus else "rocm"
    for name, effect in (
        ("NVIDIA_TF32_OVERRIDE", "makes every float32 product a TF32 one: 10 bits in place of 23"),
        (
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
            "makes torch's float32 products TF32 ones: 10 bits in place of 23",
        ),
        ("CUDA_LAUNCH_BLOCKING", "makes the processor wait for every kernel"),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "makes torch ask the driver for every tensor"),
    ):
        value = facts.environ.get(name, "").strip()
        if value not in {"", "0"}:
            yield advise(kind, f"{name}={value} {effect}", f"unset {name}")


def _metal_variables(facts: Facts) -> Iterator[Problem]:
    if facts.apple is None:
        return
    if facts.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1":
        yield advise(
            "mps",
            "PYTORCH_ENABLE_MPS_FALLBACK=1 runs what Metal lacks on the CPU, with no word of it "
            "but a warning of torch's",
            "unset PYTORCH_ENABLE_MPS_FALLBACK where you want an error in its place",
        )
    if facts.environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "").strip() in {"0", "0.0"}:
        yield advise(
            "mps",
            "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 lifts torch's limit of memory: macOS may stop "
            "the program, or swap until nothing answers",
            "unset PYTORCH_MPS_HIGH_WATERMARK_RATIO",
        )


__all__ = ["advice"]
