"""What could be better is said with its remedy, and keeps nothing from running."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langchain_gpu.hardware.advice import advice
from langchain_gpu.hardware.devices import problems
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import NO_LIBRARY, Nvidia
from tests.unit_tests.machines import (
    M3_MAX,
    MACHINES,
    MI300X,
    NO_GPU,
    RTX_4090,
    RX_7900_XTX,
    TWO_H100,
)


def only(facts: Facts) -> tuple[str, str]:
    (found,) = advice(facts)
    assert found.severity == "advice"
    assert problems(facts) == []
    return found.what, found.remedy


@pytest.mark.parametrize("name", MACHINES)
def test_machines_in_order_need_none(name: str) -> None:
    assert advice(MACHINES[name]) == []


@pytest.mark.parametrize(
    ("value", "says"), [("all", "no NVIDIA driver"), ("void", "gives this container no")]
)
def test_a_container_without_the_gpus(value: str, says: str) -> None:
    what, remedy = only(replace(NO_GPU, environ={"NVIDIA_VISIBLE_DEVICES": value}))
    assert says in what
    assert "--gpus all" in remedy


def test_a_driver_that_does_not_answer_is_told_once() -> None:
    facts = replace(NO_GPU, nvidia=Nvidia(error=NO_LIBRARY))
    assert advice(replace(facts, environ={"NVIDIA_VISIBLE_DEVICES": "all"})) == []


@pytest.mark.parametrize(
    ("value", "fine"),
    [("utility", False), ("utility,video", False), ("all", True), ("compute,utility", True)],
)
def test_a_container_without_compute(value: str, *, fine: bool) -> None:
    facts = replace(RTX_4090, environ={"NVIDIA_DRIVER_CAPABILITIES": value})
    assert (advice(facts) == []) is fine


def test_an_override_that_is_not_needed() -> None:
    facts = replace(RX_7900_XTX, environ={"HSA_OVERRIDE_GFX_VERSION": "10.3.0"})
    what, remedy = only(facts)
    assert "a gfx1030" in what
    assert "gfx1100" in what
    assert remedy == "unset HSA_OVERRIDE_GFX_VERSION"
    assert advice(replace(facts, environ={"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})) == []


def test_mig_instances_that_cuda_does_not_show() -> None:
    parts = tuple(GPU(name="MIG 3g.40gb", uuid=f"MIG-{i}", capability="9.0") for i in range(2))
    card = replace(TWO_H100.nvidia.gpus[0], instances=parts)
    facts = replace(TWO_H100, nvidia=replace(TWO_H100.nvidia, gpus=(card,)))
    assert "cut into 2 MIG instances" in only(facts)[0]
    assert advice(replace(facts, environ={"CUDA_VISIBLE_DEVICES": "MIG-1"})) == []


@pytest.mark.parametrize(("machine", "tool"), [(TWO_H100, "nvidia-smi"), (MI300X, "rocm-smi")])
def test_a_card_whose_memory_is_taken(machine: Facts, tool: str) -> None:
    maker = "nvidia" if machine.nvidia.gpus else "amd"
    driver = getattr(machine, maker)
    full = replace(driver.gpus[-1], memory_free=8 << 30)
    taken = {maker: replace(driver, gpus=(*driver.gpus[:-1], full))}
    what, remedy = only(replace(machine, **taken))
    assert f":{len(driver.gpus) - 1} ({full.name})" in what
    assert tool in remedy


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "CUDA_LAUNCH_BLOCKING",
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
    ],
)
def test_variables_that_slow_or_blur(name: str) -> None:
    assert only(replace(RTX_4090, environ={name: "1"}))[1] == f"unset {name}"
    assert advice(replace(RTX_4090, environ={name: "0"})) == []
    assert advice(replace(NO_GPU, environ={name: "1"})) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTORCH_ENABLE_MPS_FALLBACK", "1"), ("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "0.0")],
)
def test_variables_of_metal(name: str, value: str) -> None:
    assert name in only(replace(M3_MAX, environ={name: value}))[1]
    assert advice(replace(NO_GPU, environ={name: value})) == []
