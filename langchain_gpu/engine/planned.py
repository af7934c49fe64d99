"""Whether a model fits a device, planned before it is loaded."""

from __future__ import annotations

from dataclasses import replace

from langchain_gpu.engine.backends import require_local
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import free_memory
from langchain_gpu.models.info import ModelInfo
from langchain_gpu.models.resolve import resolve
from langchain_gpu.planner import ComponentPlan, Encoder
from langchain_gpu.planner.components import DTYPE_BYTES
from langchain_gpu.planner.single import plan_single

_LONGEST = 512


def plan_encoder(config: EmbedderConfig, device: Device) -> ComponentPlan | None:
    """Plan a model on a GPU against what is free there now, or return the caller's own plan.

    None where there is nothing to plan: on a CPU, behind a server, with a back end that loads files
    of another form than torch, or where headers or memory do not say enough.

    Raises:
        ModelNotFoundError: No files for the model.
        ImportError: torch or sentence-transformers is not installed.
    """
    if config.plan is not None:
        return config.plan
    if device.kind in {"cpu", "remote"} or config.backend not in {"auto", "torch"}:
        return None
    if config.model.lower().endswith(".gguf"):
        return None

    def encoder(info: ModelInfo) -> Encoder:
        return Encoder(
            info=info,
            role="reranker" if config.task == "score" else "embedder",
            name=config.model,
            dtype=config.dtype if config.dtype in DTYPE_BYTES else None,
            max_batch_tokens=config.max_batch_tokens,
            max_length=min(info.context_length or _LONGEST, _LONGEST),
        )

    require_local()  # else a model is fetched for what cannot run it
    path = resolve(config.model, **config.where).path
    return plan_single(path, replace(device, memory_free=free_memory(device)), encoder)


__all__ = ["plan_encoder"]
