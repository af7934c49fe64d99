"""The plan of a single model on one device, made whenever an engine loads one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import has_context
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import HeaderError, ModelInfo
from langchain_gpu.models.resolve import ModelNotFoundError
from langchain_gpu.planner.components import Component
from langchain_gpu.planner.plan import plan
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.terms import ComponentPlan


def plan_single(
    path: Path,
    device: Device,
    component: Callable[[ModelInfo], Component | None],
    policy: Policy | None = None,
) -> ComponentPlan | None:
    """Plan a model that is about to be loaded, the CPU's memory beside the device's.

    Args:
        path: Its files.
        device: Where it is meant to go, with the memory that is free there now.
        component: Makes the component of what the headers say; None for what is not planned.
        policy: What must be respected; None for the defaults.

    Returns:
        The plan, also one that refuses; None where headers or memory do not say enough. Loading the
        model will then say what is wrong, in its own words.
    """
    if device.memory_free is None:
        return None
    try:
        info = read_info(path)
    except (HeaderError, ModelNotFoundError, OSError):
        return None  # some models of modules have no config.json of their own (static embeddings)
    asked = component(info)
    if asked is None:
        return None
    devices = [device] if device.kind == "cpu" else [device, select_device("cpu")]
    opened = [str(device)] if has_context(device) else []
    return plan([asked], devices, policy, opened=opened)[asked.name]


__all__ = ["plan_single"]
