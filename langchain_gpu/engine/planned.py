"""Whether a model fits a device, asked before it is loaded."""

from __future__ import annotations

import sys
from dataclasses import replace

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.hardware.memory import free_memory
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import HeaderError
from langchain_gpu.models.resolve import resolve
from langchain_gpu.planner import ComponentPlan, Encoder, plan
from langchain_gpu.planner.components import DTYPE_BYTES

_LONGEST = 512


def plan_encoder(config: EmbedderConfig, device: Device) -> ComponentPlan | None:
    """Plan a model on a GPU against what is free there now, or return the caller's own plan.

    None where there is nothing to plan: on a CPU, behind a server, with a back end that loads files
    of another form than torch, or where headers or memory do not say enough.

    Raises:
        ModelNotFoundError: No files for the model.
    """
    if config.plan is not None:
        return config.plan
    if device.kind in {"cpu", "remote"} or config.backend not in {"auto", "torch"}:
        return None
    if config.model.lower().endswith(".gguf"):
        return None
    device = replace(device, memory_free=free_memory(device))
    if device.memory_free is None:
        return None
    try:
        info = read_info(resolve(config.model, **config.where).path)
    except (HeaderError, OSError):  # loading it will say what is wrong, in its own words
        return None
    encoder = Encoder(
        info=info,
        role="reranker" if config.task == "score" else "embedder",
        name=config.model,
        dtype=config.dtype if config.dtype in DTYPE_BYTES else None,
        max_batch_tokens=config.max_batch_tokens,
        max_length=min(info.context_length or _LONGEST, _LONGEST),
    )
    opened = [str(device)] if _has_context(device) else []
    return plan([encoder], [device, select_device("cpu")], opened=opened)[encoder.name]


def _has_context(device: Device) -> bool:
    """Say whether this process has opened the device, so that its own part is already taken."""
    torch = sys.modules.get("torch")
    api = {"cuda": "cuda", "rocm": "cuda", "xpu": "xpu"}.get(device.kind)
    found = getattr(torch, api, None) if torch is not None and api is not None else None
    return found is not None and bool(found.is_initialized())


__all__ = ["plan_encoder"]
