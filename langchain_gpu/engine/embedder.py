"""From a model's name and a wish for a device to an engine that embeds texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_gpu.engine import backends
from langchain_gpu.engine.backends import TextEncoder
from langchain_gpu.engine.engine import Engine
from langchain_gpu.events import Listener, warn_fallback
from langchain_gpu.hardware.devices import (
    Device,
    DeviceNotFoundError,
    list_devices,
    problems,
    select_device,
)
from langchain_gpu.hardware.memory import is_out_of_memory, release
from langchain_gpu.models.resolve import resolve

Fallback = Literal["cpu", "error"]

# Padded tokens per batch to begin with. On a CPU a batch's activations should stay in the cache;
# a GPU wants enough work to fill it. The out-of-memory ladder corrects a guess that is too high.
CPU_BUDGET = 2048
GPU_BUDGET = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderConfig:
    """Everything that decides how an embedder is loaded.

    Attributes:
        model: Path or name; see `models.resolve`.
        device: A name, `"auto"`, or several names to spread the work over.
        backend: Which library runs the model.
        dtype: What is computed in; `"auto"` asks the device.
        fallback: `"cpu"` moves there with a warning when a device is missing or too small,
            `"error"` raises.
        max_batch_tokens: Padded tokens per batch; None for a default by device.
        every_gpu: With `device="auto"`, spread the work over all GPUs.
        where: More arguments of `resolve`: revision, cache_folder, token and so on.
        options: More arguments for the back end's library.
    """

    model: str
    device: str | Sequence[str] = "auto"
    backend: str = "auto"
    dtype: str = "auto"
    fallback: Fallback = "cpu"
    max_batch_tokens: int | None = None
    every_gpu: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Embedder:
    """A loaded model.

    Attributes:
        engine: Runs it.
        encoder: Knows its tokenizer and prompts.
        reason: Which library runs it, and why.
    """

    engine: Engine[str]
    encoder: TextEncoder
    reason: str

    def close(self) -> None:
        """Free the model's memory."""
        devices = self.engine.devices
        self.engine.close()
        for device in devices:
            release(device)


def load(config: EmbedderConfig, on_event: Listener | None = None) -> Embedder:
    """Find the model, choose the devices, load it on each.

    Raises:
        ModelNotFoundError: No files for the model.
        DeviceNotFoundError: The device is not here and the policy is `"error"`.
        ValueError: Unknown backend, dtype or device.
        ImportError: The back end's extra is not installed.
    """
    devices = _devices(config, on_event)
    folder = resolve(config.model, **config.where).path
    cpu = select_device("cpu") if config.fallback == "cpu" else None

    def load_on(device: Device) -> tuple[TextEncoder, str]:
        return backends.create(config.backend, folder, device, config.dtype, config.options)

    loaded = [_or_cpu(load_on, device, cpu, on_event) for device in devices]
    encoders = [encoder for encoder, _ in loaded]
    engine: Engine[str] = Engine(
        encoders,
        budget_for=lambda device: config.max_batch_tokens or default_budget(device),
        fallback=[cpu] if cpu is not None else [],
        on_event=on_event,
    )
    return Embedder(engine, *loaded[0])


def default_budget(device: Device) -> int:
    """Return the padded tokens per batch to begin with on `device`."""
    return CPU_BUDGET if device.kind == "cpu" else GPU_BUDGET


def _devices(config: EmbedderConfig, on_event: Listener | None) -> list[Device]:
    if config.every_gpu and config.device == "auto":
        gpus = [device for device in list_devices() if device.kind != "cpu"]
        if gpus:
            return gpus
    try:
        chosen = (
            [select_device(config.device)]
            if isinstance(config.device, str)
            else select_device(config.device)
        )
    except DeviceNotFoundError as error:
        if config.fallback == "error":
            raise
        cpu = select_device("cpu")
        source = str(config.device)
        warn_fallback(on_event, what="embedding", source=source, target="cpu", reason=str(error))
        return [cpu]
    if config.device == "auto" and chosen[0].kind == "cpu" and (found := problems()):
        # A GPU that could work but does not: the CPU is not taken silently.
        reason = f"{found[0].what}: {found[0].remedy}"
        warn_fallback(on_event, what="embedding", source="the GPU", target="cpu", reason=reason)
    return chosen


_Loaded = tuple[TextEncoder, str]


def _or_cpu(
    load_on: Callable[[Device], _Loaded],
    device: Device,
    cpu: Device | None,
    on_event: Listener | None,
) -> _Loaded:
    """Load on `device`, or on the CPU when it does not fit and the policy allows that."""
    try:
        return load_on(device)
    except Exception as error:
        if cpu is None or device.kind == "cpu" or not is_out_of_memory(error):
            raise
        problem = str(error).strip().partition("\n")[0]
    release(device)  # outside the except block, where the traceback held the half-loaded model
    warn_fallback(
        on_event,
        what="embedding",
        source=str(device),
        target="cpu",
        reason=f"the model does not fit: {problem}",
    )
    return load_on(cpu)
