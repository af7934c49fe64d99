"""Problems with remedies, from the results of the proofs."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_gpu.doctor.cards import cards
from langchain_gpu.doctor.environment import Environment
from langchain_gpu.doctor.proofs import Proof
from langchain_gpu.doctor.wheels import faiss_remedy
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import Kind
from langchain_gpu.hardware.traps import Problem, advise
from langchain_gpu.hardware.wheels import (
    ROCM_WHEEL,
    XPU_WHEEL,
    cuda_remedy,
    reinstall,
    version,
)

_LLAMA = "pip install --force-reinstall xllamacpp --index-url https://xorbitsai.github.io/xllamacpp"
# Compute capabilities for which xllamacpp's wheel for CUDA 13.2 holds machine code. For later ones
# than 7.5 it holds PTX, which a driver for CUDA 13.0 or 13.1 cannot compile.
_LLAMA_NATIVE = {(7, 5), (8, 6), (8, 9), (12, 0), (12, 1)}
_LONGER = "a first start reads gigabytes of libraries: langchain-gpu doctor --proof-timeout 60"
_STUCK = {
    "cuda": "see `nvidia-smi` and dmesg (lines with Xid); a reboot helps a driver that hangs",
    "rocm": "see dmesg (lines with amdgpu); a reboot helps a driver that hangs",
}


def judge(
    proofs: Sequence[Proof], env: Environment, facts: Facts, devices: Sequence[Device]
) -> list[Problem]:
    """Return what the proofs found wrong, each with its remedy.

    Args:
        proofs: What came of them.
        env: What is installed.
        facts: The machine.
        devices: What of it torch can use.
    """
    gpus = cards(facts, devices)
    by_name = {str(device): device for device in [*devices, *gpus]}
    found = []
    for proof in proofs:
        device = by_name.get(proof.device)
        problem = _judge(proof, device, env, facts)
        if problem is not None:
            found.append(problem)
    gpu = gpus[0] if gpus else None
    found += [blind for proof in proofs if (blind := _blind(proof, gpu, facts)) is not None]
    return list(dict.fromkeys(found))


def _judge(proof: Proof, device: Device | None, env: Environment, facts: Facts) -> Problem | None:
    if proof.passed:
        return None
    kind: Kind = device.kind if device else "cpu"
    where = f" on {proof.device} ({device.name})" if device else ""
    what = f"{proof.name}{where}: {proof.what}"
    if proof.cause == "slow start":
        return advise(kind, what, _LONGER)
    if proof.cause == "memory":
        tool = {"cuda": "`nvidia-smi`", "rocm": "`rocm-smi --showpids`"}.get(kind, "`top`")
        return Problem(kind, what, f"{tool} names the programs that hold it; close one")
    if proof.cause == "timeout":
        stuck = _STUCK.get(kind, "see `top`: something else may keep the processor busy")
        # A processor that is busy with something else is not out of order.
        busy = kind == "cpu" and env.load is not None and env.load > (env.cores_seen or 1)
        remedy = f"{stuck}; or allow more time: --proof-timeout 60"
        return Problem(kind, what, remedy, severity="advice" if busy else "problem")
    if proof.name == "ONNX Runtime" and proof.cause == "missing":
        # A wheel for GPUs that cannot reach one is a defect; a CPU wheel beside a GPU is a choice.
        chosen = any(wheel != "onnxruntime" for wheel in env.wheels.get("onnxruntime", {}))
        return Problem(kind, what, proof.remedy, severity="problem" if chosen else "advice")
    return Problem(kind, what, _remedy(proof, device, env, facts))


def _blind(proof: Proof, gpu: Device | None, facts: Facts) -> Problem | None:
    """Tell that llama.cpp or OpenVINO sees no GPU beside one that is here."""
    if not proof.passed or gpu is None:
        return None
    if proof.name == "llama.cpp" and proof.gpus == 0:
        return Problem(
            gpu.kind,
            f"this build of xllamacpp is for the CPU, and there is {gpu} ({gpu.name}): GGUF models "
            "run on the CPU",
            f"{_LLAMA}/{_llama_wheel(gpu, facts)}"
            if gpu.kind != "mps"
            else "pip install --force-reinstall xllamacpp (its macOS wheel has Metal)",
        )
    sees = any(name.startswith("GPU") for name in proof.found)
    if proof.name == "OpenVINO" and gpu.kind == "xpu" and not sees:
        return advise(
            "xpu",
            f"OpenVINO sees no GPU, and there is {gpu} ({gpu.name})",
            "install Intel's OpenCL runtime (intel-opencl-icd) and join the group `render`",
        )
    return None


def _llama_wheel(gpu: Device, facts: Facts) -> str:
    """Return the name of xllamacpp's wheel for a GPU, as its README lists them."""
    if gpu.kind == "cuda":
        newest, card = facts.nvidia.cuda, version(gpu.capability or "7.5")
        needed = (13, 0) if card in _LLAMA_NATIVE else (13, 2)
        # CUDA 13 leaves out what came before Turing.
        fits = card >= (7, 5) and (newest is None or newest >= needed)
        return "whl/cu132" if fits else "whl/cu128"
    return "whl/rocm-7.2.4" if gpu.kind == "rocm" else "whl/vulkan"


def _remedy(proof: Proof, device: Device | None, env: Environment, facts: Facts) -> str:
    if proof.name == "matrix product":
        return _torch_remedy(proof, device, facts)
    if proof.name == "FAISS search":
        wheel = next(iter(env.wheels.get("faiss", {})), "faiss-gpu")
        if device is not None and device.kind == "cuda":
            return faiss_remedy(device, facts, wheel)
        return f"pip install --force-reinstall {wheel}"
    if proof.name == "ONNX Runtime":
        wheel = next(iter(env.wheels.get("onnxruntime", {})), "onnxruntime")
        return f'pip install --force-reinstall {wheel}; until then take backend="torch"'
    if proof.name == "OpenVINO":
        return "pip install --force-reinstall openvino"
    return (
        "pip install --force-reinstall xllamacpp; a build for a GPU needs that GPU's driver and "
        "libraries"
    )


def _torch_remedy(proof: Proof, device: Device | None, facts: Facts) -> str:
    kind = "cpu" if device is None else device.kind
    remedies = {
        "cpu": "pip install --force-reinstall torch",
        "mps": "update macOS, or pip install --force-reinstall torch",
        "xpu": f"update Intel's compute runtime, or {reinstall(XPU_WHEEL)}",
        "rocm": f"{_STUCK['rocm']}; else {reinstall(ROCM_WHEEL)}",
    }
    if device is None or kind in remedies:
        return remedies[kind]
    line = cuda_remedy(device.capability, facts.nvidia.cuda)
    if proof.cause != "wrong":
        return f"{_STUCK['cuda']}; else {line}"
    if proof.dtype == "float32":
        return f"unset NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, or {line}"
    return f"`nvidia-smi -q -d ECC` shows errors of its memory; else {line}"


__all__ = ["judge"]
