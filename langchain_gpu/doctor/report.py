"""The report: everything the doctor knows, as plain data."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from langchain_gpu import __version__
from langchain_gpu.doctor.environment import Environment, read_environment
from langchain_gpu.doctor.judge import judge
from langchain_gpu.doctor.needs import (
    engine_advice,
    extras_of,
    read_needs,
    version_problems,
    versions_of,
)
from langchain_gpu.doctor.proofs import Proof
from langchain_gpu.doctor.system import system_problems
from langchain_gpu.doctor.waves import prove
from langchain_gpu.doctor.wheels import wheel_problems
from langchain_gpu.hardware.advice import advice
from langchain_gpu.hardware.devices import Device, dtype_reason, list_devices, problems
from langchain_gpu.hardware.facts import Facts, read_facts
from langchain_gpu.hardware.traps import Problem


def report(
    facts: Facts | None = None,
    *,
    proofs: bool | Sequence[Proof] = False,
    environment: Environment | None = None,
) -> dict[str, Any]:
    """Describe this machine and this installation.

    Args:
        facts: A machine to judge; this one where it is None.
        proofs: What `prove` found; True runs the proofs now, on this machine.
        environment: The system around it; where it is None, this one's, or nothing known where
            `facts` are given.

    Returns:
        A dict of plain JSON values with the keys `version`, `python`, `platform`, `devices` (best
        first), `problems` (`what`, `remedy`, and the `severity`: `"problem"` keeps hardware from
        being used, `"advice"` does not), `proofs`, `extras` (`installed`, `modules` with their
        versions, the `install` line) and `versions` (of distributions, and of NVIDIA's driver).
    """
    if environment is None:
        environment = read_environment() if facts is None else Environment()
    facts = facts or read_facts()
    devices = list_devices(facts)
    done = prove(facts) if proofs is True else list(proofs or ())
    needs = read_needs()
    versions = versions_of(needs)
    if facts.nvidia.driver is not None:
        versions["NVIDIA driver"] = facts.nvidia.driver
    proven = {proof.device for proof in done if proof.name == "FAISS search" and proof.passed}
    trapped = problems(facts)
    found = [
        *trapped,
        *judge(done, environment, facts, devices),
        *wheel_problems(environment, facts, devices, proven),
        *version_problems(needs),
        *([] if trapped else engine_advice(needs)),  # what frees a card says what to install
        *advice(facts),
        *system_problems(environment, facts, devices),
    ]
    found.sort(key=lambda problem: problem.severity == "advice")  # stable: problems first
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [_device(device, facts, environment) for device in devices],
        "problems": [_problem(problem) for problem in dict.fromkeys(found)],
        "proofs": [{**asdict(proof), "found": list(proof.found)} for proof in done],
        "extras": extras_of(needs),
        "versions": versions,
    }


def has_problems(report: dict[str, Any]) -> bool:
    """Say whether a `report` names something that keeps hardware from being used."""
    return any(problem["severity"] == "problem" for problem in report["problems"])


def _problem(problem: Problem) -> dict[str, str]:
    return {"what": problem.what, "remedy": problem.remedy, "severity": problem.severity}


def _device(device: Device, facts: Facts, environment: Environment) -> dict[str, Any]:
    return {
        **asdict(device),
        "isa": list(device.isa),
        "dtype_reason": dtype_reason(device),
        "notes": _notes(device, facts, environment),
    }


def _notes(device: Device, facts: Facts, environment: Environment) -> list[str]:
    """Say what is true of such a device and surprises people."""
    if device.kind == "cuda":
        notes = []
        if device.dtype == "bfloat16":  # Ampere and later have TF32 too
            notes.append("float32 is float32: TF32 stays off unless you turn it on")
        if "onnxruntime-gpu" in environment.wheels.get("onnxruntime", {}):
            notes.append("ONNX in int8 is for the CPU: CUDA runs it slower than float32")
        return notes
    if device.kind == "rocm":
        return ["torch calls it cuda; FAISS has no wheel for it, and torch searches"]
    if device.kind == "mps":
        fallback = facts.environ.get("PYTORCH_ENABLE_MPS_FALLBACK") == "1"
        notes = ["its memory is the processor's"]
        if not fallback:
            notes.append(
                "what Metal lacks is an error (PYTORCH_ENABLE_MPS_FALLBACK=1: goes to the CPU)"
            )
        return notes
    return []


__all__ = ["has_problems", "report"]
