"""What the doctor prints on each simulated machine, compared as text.

`SNAPSHOTS=write pytest tests/unit_tests/test_doctor_snapshots.py` writes the files anew; read the
difference before you commit it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from langchain_gpu.doctor import Proof, needs, proofs, redact, render, report
from langchain_gpu.doctor.environment import Environment
from langchain_gpu.doctor.markdown import markdown
from langchain_gpu.doctor.ollama import Loaded, Ollama
from langchain_gpu.doctor.proofs import plan
from langchain_gpu.hardware.devices import Device, list_devices
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.planner import Index
from langchain_gpu.planner import plan as make_plan
from tests.unit_tests.machines import CPU_BUILD, LAPTOP_8GB, MACHINES
from tests.unit_tests.text_snapshots import FOLDER, compare, drawn

GIB = 2**30

# What is installed there, whatever is installed here.
LINES = [
    "langchain-core>=1.4.2,<2",
    "numpy>=1.26",
    'torch>=2.6; extra == "local"',
    'faiss-cpu>=1.15,<2; extra == "faiss"',
    'xllamacpp>=2026.10; extra == "llama-cpp"',
]
VERSIONS = {"langchain-core": "1.7.2", "numpy": "2.4.6", "faiss-cpu": "1.15.1", "torch": "2.13.0"}
WHEELS = {"faiss": {"faiss-cpu": "1.15.1"}}

# The laptop after all that can go wrong there.
TRAPPED = replace(
    LAPTOP_8GB,
    torch=CPU_BUILD,
    environ={"OMP_NUM_THREADS": "64", "TOKENIZERS_PARALLELISM": "false"},
)
TRAPPED_ENVIRONMENT = Environment(
    wheels={"faiss": {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"}},
    cores_seen=20,
    shared_memory=64 * 2**20,
    swap_used=6 * GIB,
    hub_cache="/data/hub",
    hub_free=GIB,
    ollama=Ollama("http://127.0.0.1:11434", (Loaded("qwen3:8b", 6 * GIB, 0),)),
    pickled=("old_store",),
)


@pytest.fixture(autouse=True)
def known_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "requires", lambda _: LINES)
    monkeypatch.setattr(needs, "find_version", VERSIONS.get)
    monkeypatch.setattr(proofs, "_has_gpu_faiss", lambda: False)


def samples(machine: Facts) -> list[Proof]:
    """Proofs that went well, with figures that stand for nothing."""
    return [
        Proof(
            name=trial.name,
            device=trial.device,
            dtype=trial.dtype,
            passed=True,
            seconds=1.25,
            gflops=123.4 if trial.device == "cpu" else 56_789.0,
            error=1.7e-3 if trial.dtype else None,
        )
        for trial in plan(machine, {"torch", "faiss"}.__contains__)
    ]


def masked(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "version": "VERSION", "python": "PYTHON", "platform": "PLATFORM"}


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_in_order(name: str) -> None:
    machine = MACHINES[name]
    environment = Environment(wheels=WHEELS, cores_seen=machine.cpu.cores)
    found = report(machine, proofs=samples(machine), environment=environment)
    assert all(problem["severity"] == "advice" for problem in found["problems"])
    compare(f"doctor-{name}.txt", drawn(render(masked(found))))


def test_a_machine_with_every_trap() -> None:
    trials = plan(TRAPPED, {"torch", "faiss", "xllamacpp"}.__contains__)
    failed = [
        Proof(
            name=trial.name,
            device=trial.device,
            dtype=trial.dtype,
            passed=False,
            cause="crash",
            what="the process died (SIGILL)",
            seconds=0.5,
        )
        for trial in trials
    ]
    found = report(TRAPPED, proofs=failed, environment=TRAPPED_ENVIRONMENT)
    compare("doctor-trapped.txt", drawn(render(masked(found))))


def test_a_bug_report() -> None:
    machine = MACHINES["two-h100"]
    environment = Environment(
        wheels=WHEELS, cores_seen=machine.cpu.cores, hub_free=GIB, hub_cache="/data/hub"
    )
    found = report(machine, proofs=samples(machine), environment=environment)
    compare("doctor-report.txt", markdown(redact(masked(found), {})))


@pytest.mark.parametrize("name", MACHINES)
def test_the_doctor_and_a_plan_speak_of_the_same_memory(name: str) -> None:
    machine = MACHINES[name]
    index = Index(kind="flat", rows=10, dimension=8, bytes=400)
    pools = make_plan([index], list_devices(machine)).pools
    planned = {pool.device: (pool.total, pool.free) for pool in pools}
    looked = report(machine, environment=Environment())["devices"]
    assert planned == {
        str(Device(kind=each["kind"], index=each["index"], name="", reason="")): (
            each["memory_total"],
            each["memory_free"],
        )
        for each in looked
    }


def test_no_snapshot_is_left_over() -> None:
    names = {f"doctor-{name}.txt" for name in [*MACHINES, "trapped", "report"]}
    assert {file.name for file in FOLDER.glob("doctor-*.txt")} == names
