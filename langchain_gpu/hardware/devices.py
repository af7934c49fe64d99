"""Devices: what is here, which one is taken, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

from langchain_gpu.hardware.dtypes import choose_dtype
from langchain_gpu.hardware.facts import Facts, read_facts
from langchain_gpu.hardware.gpu import GPU, Kind, visible_amd, visible_nvidia
from langchain_gpu.hardware.names import as_names
from langchain_gpu.hardware.traps import (
    Problem,
    amd_arch,
    amd_problem,
    apple_problem,
    intel_problem,
    machine_problems,
    nvidia_problem,
    order_problem,
)

_GPU_NAME = re.compile(r"(cuda|rocm|xpu|mps)(:[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A place where work runs, with the reason why it was taken.

    Attributes:
        kind: `"rocm"` is an AMD GPU, although torch speaks of it as `cuda`.
        index: Position among the devices of its kind; None for the CPU and remote servers.
        name: The maker's name, or the host of a remote server.
        reason: Why this device was chosen, in a sentence a user can act on.
        memory_total: Bytes, None where unknown.
        memory_free: Bytes free when it was looked at, None where unknown.
        capability: Compute capability (`"9.0"`) or architecture (`"gfx1100"`) of a GPU.
        isa: CPU features that matter here, out of `avx2`, `avx512f`, `avx512_vnni`,
            `avx512_bf16`, `avx512_fp16`, `amx_bf16`, `amx_int8`, `neon`, `sve`, `bf16`.
        cores: CPU cores the process may really use (affinity and cgroup quota counted).
        dtype: What `dtype="auto"` computes in here.
    """

    kind: Kind
    name: str
    reason: str
    index: int | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    capability: str | None = None
    isa: tuple[str, ...] = ()
    cores: int | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        """Return the short name users write, for example `cuda:0` or `cpu`."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"

    @property
    def torch_name(self) -> str:
        """The name torch uses for it: ROCm devices are `cuda` there."""
        kind = "cuda" if self.kind == "rocm" else self.kind
        return kind if self.index is None else f"{kind}:{self.index}"


class DeviceNotFoundError(ValueError):
    """An explicitly named device is not here, or cannot be used as it is."""


def list_devices(facts: Facts | None = None) -> list[Device]:
    """Return the devices that can be used here, best first, the CPU last.

    Looking makes no CUDA context, so a process may still fork afterwards.

    Args:
        facts: A machine to judge; this one where it is None.
    """
    return _survey(facts or read_facts()).devices


def problems(facts: Facts | None = None) -> list[Problem]:
    """Return what keeps a card that is here from being used, each with its remedy.

    Args:
        facts: A machine to judge; this one where it is None.
    """
    return _survey(facts or read_facts()).problems


@overload
def select_device(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; it goes first
    device: str = "auto", *, facts: Facts | None = None
) -> Device: ...
@overload
def select_device(device: Sequence[str], *, facts: Facts | None = None) -> list[Device]: ...
def select_device(
    device: str | Sequence[str] = "auto", *, facts: Facts | None = None
) -> Device | list[Device]:
    """Choose the device, or the list of devices, that `device` names.

    `"auto"` takes the best GPU and else the CPU, whose reason then says what kept a GPU from being
    used. `"cuda"` means the ROCm device under a ROCm build of torch, as it does in torch.

    Args:
        device: `"auto"`, `"cpu"`, `"cuda"`, `"rocm"`, `"xpu"`, `"mps"`, a GPU with its index as in
            `"cuda:1"`, or a sequence of these.
        facts: A machine to judge; this one where it is None.

    Raises:
        DeviceNotFoundError: A device that was named is not here; says why and what is.
        ValueError: `device` is none of the forms above.
    """
    facts = facts or read_facts()
    device = as_names(device)
    if isinstance(device, str):
        return _select(device, facts)
    if not device:
        raise ValueError('an empty list of devices; use "auto", or name at least one')
    return [_select(name, facts) for name in device]


def check_name(name: str) -> None:
    """Refuse what can name no device on any machine; nothing is looked for.

    Raises:
        ValueError: It is none of the forms that `select_device` takes.
    """
    if name not in ("auto", "cpu") and _GPU_NAME.fullmatch(name) is None:
        raise ValueError(
            f"{name!r} is not a device: write auto, cpu, cuda, rocm, xpu, mps, or one with its "
            "index, as in cuda:1"
        )


def device_of(kind: Kind, index: int, gpu: GPU, reason: str) -> Device:
    """Return a card as a device, for `reason`, whether torch can use it or not."""
    return Device(
        kind=kind,
        index=index,
        name=gpu.name,
        reason=reason,
        memory_total=gpu.memory_total,
        memory_free=gpu.memory_free,
        capability=gpu.capability,
    )


def dtype_reason(device: Device) -> str:
    """Say in a few words why `device.dtype` is what it is."""
    return choose_dtype(device.kind, device.capability, device.isa, device.name)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    devices: list[Device]  # usable, best first, the CPU last
    problems: list[Problem]  # worth telling
    blocked: list[Problem]  # everything that stands in the way of some card


def _survey(facts: Facts) -> _Survey:
    gpus: list[Device] = []
    blocked = machine_problems(facts)

    def judge(kind: Kind, index: int, gpu: GPU, problem: Problem | None, arch: str | None) -> None:
        if problem is None:
            gpus.append(_gpu_device(kind, index, gpu, arch, facts))
        else:
            blocked.append(problem)

    for index, gpu in enumerate(visible_nvidia(facts.nvidia.gpus, facts.environ)):
        judge("cuda", index, gpu, nvidia_problem(gpu, facts), gpu.capability)
    for index, gpu in enumerate(visible_amd(facts.amd.gpus, facts.environ)):
        judge("rocm", index, gpu, amd_problem(gpu, facts), amd_arch(gpu, facts))
    if facts.torch is not None:
        kind: Kind = "xpu" if facts.torch.xpu else "rocm"
        for index, gpu in enumerate(facts.torch.counted):
            judge(kind, index, gpu, None, gpu.capability)
    if facts.apple is not None:
        judge("mps", 0, facts.apple, apple_problem(facts), None)
    intel = intel_problem(facts)
    blocked = list(dict.fromkeys([*blocked, intel] if intel else blocked))

    # Where one maker's card works, it is no problem that torch was not built for the other's.
    working = {device.kind for device in gpus}
    told = [problem for problem in blocked if not working or problem.kind in working]
    # Two builds of torch cannot be installed at once: what is sure is told, not what may be.
    told = [problem for problem in told if problem.severity == "problem"] or told
    mixed = order_problem(facts) if "cuda" in working else None
    gpus.sort(key=_rank)
    return _Survey(
        devices=[*gpus, _cpu_device(facts, gpus, told)],
        problems=[*told, mixed] if mixed else told,
        blocked=blocked,
    )


def _select(name: str, facts: Facts) -> Device:
    check_name(name)
    survey = _survey(facts)
    if name == "auto":
        return survey.devices[0]
    if name == "cpu":
        return replace(survey.devices[-1], reason="asked for as 'cpu'")
    kind, _, index = name.partition(":")
    alias = ""
    if kind == "cuda" and facts.torch is not None and facts.torch.hip:
        kind, alias = "rocm", " (torch's name for ROCm)"
    for device in survey.devices:
        if device.kind == kind and index in {"", str(device.index)}:
            return replace(device, reason=f"asked for as {name!r}{alias}; {device.reason}")
    why = "; ".join(str(problem) for problem in survey.blocked if problem.kind == kind)
    here = ", ".join(f"{device} ({device.name})" for device in survey.devices)
    why = why or "there is no such device here"
    raise DeviceNotFoundError(f"device {name!r}{alias} cannot be used: {why}. Usable: {here}")


def _rank(gpu: Device) -> tuple[int, int, int]:
    """Order GPUs: fast number formats first, then memory, then as the driver counts."""
    speed = ("bfloat16", "float16", "float32").index(gpu.dtype)
    return speed, -(gpu.memory_total or 0), gpu.index or 0


def _gpu_device(kind: Kind, index: int, gpu: GPU, arch: str | None, facts: Facts) -> Device:
    torch = f"torch {facts.torch.version}" if facts.torch else "torch"
    what = f"compute capability {arch}" if kind == "cuda" else arch or "it"
    if arch != gpu.capability:
        what += f" (by HSA_OVERRIDE_GFX_VERSION; the card is {gpu.capability})"
    device = device_of(kind, index, gpu, f"{torch} runs on {what}")
    return replace(device, capability=arch, dtype=choose_dtype(kind, arch, ())[0])


def _cpu_device(facts: Facts, gpus: Sequence[Device], found: Sequence[Problem]) -> Device:
    if gpus:
        reason = f"always here; {gpus[0]} comes first"
    elif found:
        reason = str(found[0])
    elif facts.torch is None:
        reason = "no GPU was found, and torch is not installed"
    else:
        reason = "no GPU was found"
    return Device(
        kind="cpu",
        name=facts.cpu.name,
        reason=reason,
        memory_total=facts.cpu.memory_total,
        memory_free=facts.cpu.memory_free,
        isa=facts.cpu.isa,
        cores=facts.cpu.cores,
        dtype=choose_dtype("cpu", None, facts.cpu.isa, facts.cpu.name)[0],
    )


__all__ = [
    "Device",
    "DeviceNotFoundError",
    "Kind",
    "Problem",
    "check_name",
    "device_of",
    "dtype_reason",
    "list_devices",
    "problems",
    "select_device",
]
