"""From a model's name and a device to an engine that embeds texts or scores pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from langchain_gpu.engine import backends
from langchain_gpu.engine.backends import TextEncoder
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.engine import Engine
from langchain_gpu.engine.ladder import until_closed
from langchain_gpu.engine.planned import plan_encoder
from langchain_gpu.events import Listener, warn_fallback
from langchain_gpu.hardware.devices import (
    Device,
    DeviceNotFoundError,
    list_devices,
    problems,
    select_device,
)
from langchain_gpu.hardware.memory import free_memory, is_out_of_memory, release
from langchain_gpu.planner import ComponentPlan
from langchain_gpu.planner.drive import DoesNotFitError, check_taken, main_device
from langchain_gpu.utils.errors import first_line

_WORK = {"embed": "embedding", "score": "reranking"}  # how messages call it


@dataclass(frozen=True, slots=True)
class Embedder:
    """A loaded embedder or reranker.

    Attributes:
        engine: Runs it.
        encoder: Knows its tokenizer and prompts.
        chosen: Which library runs it, and why.
    """

    engine: Engine[Any]
    encoder: TextEncoder
    chosen: str

    @property
    def reason(self) -> str:
        """Which library runs it and why, and what the library itself decided."""
        return "; ".join(filter(None, [self.chosen, self.encoder.details]))

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()


def load(config: EmbedderConfig, on_event: Listener | None = None) -> Embedder:
    """Find the model, choose the devices, load it on each.

    Raises:
        ModelNotFoundError: No files for the model.
        DeviceNotFoundError: The device is not here and the policy is `"error"`.
        ValueError: Unknown backend, dtype or device.
        ImportError: The back end's extra is not installed.
    """
    config = replace(config, on_event=on_event)
    remote = backends.is_remote(config)
    devices = [select_device("cpu")] if remote else _devices(config, on_event)
    cpu = select_device("cpu") if config.fallback == "cpu" and not remote else None

    loaded, planned = [], {}
    for device in devices:
        plan = None if remote else plan_encoder(config, device)
        if plan is not None and plan.max_batch_tokens is not None:
            planned[str(device)] = plan.max_batch_tokens
        loaded.append(_or_cpu(config, device, cpu, plan))
    encoders = [encoder for encoder, _ in loaded]
    engine: Engine[Any] = Engine(
        encoders,
        budgets=Budgets(
            _identity(config),
            fixed=config.max_batch_tokens,
            planned=planned,
            firm=config.plan is not None,
        ),
        fallback=[cpu] if cpu is not None else [],
        on_event=on_event,
        what=_WORK[config.task],
    )
    encoder, reason = loaded[0]
    return Embedder(engine, encoder, reason)


def _identity(config: EmbedderConfig) -> object:
    """Tell apart what takes different amounts of memory."""
    options = repr(sorted(config.options.items()))
    return config.task, config.model, config.backend, config.dtype, options, config.server.url


def _devices(config: EmbedderConfig, on_event: Listener | None) -> list[Device]:
    if config.device == "all":
        gpus = [device for device in list_devices() if device.kind != "cpu"]
        if gpus:
            return gpus
    wanted = "auto" if config.device == "all" else config.device
    if wanted == "auto" and config.plan is not None:
        wanted = main_device(config.plan)
    try:
        chosen = [select_device(wanted)] if isinstance(wanted, str) else select_device(wanted)
    except DeviceNotFoundError as error:
        if config.fallback == "error":
            raise
        cpu = replace(select_device("cpu"), reason=str(error))
        source = str(config.device)
        what, reason = _WORK[config.task], str(error)
        warn_fallback(on_event, what=what, source=source, target="cpu", reason=reason)
        return [cpu]
    if wanted == "auto" and chosen[0].kind == "cpu" and (found := problems()):
        # A GPU that could work but does not: the CPU is not taken silently.
        what, reason = _WORK[config.task], f"{found[0].what}: {found[0].remedy}"
        warn_fallback(on_event, what=what, source="the GPU", target="cpu", reason=reason)
    return chosen


_Loaded = tuple[TextEncoder, str]


def _or_cpu(
    config: EmbedderConfig, device: Device, cpu: Device | None, plan: ComponentPlan | None
) -> _Loaded:
    """Load on `device`, or on the CPU when it does not fit and the policy allows that."""
    problem = _no_place(device, plan)
    if problem is None:
        before = free_memory(device)
        try:
            loaded = backends.create(_with_table(config, device, plan), device)
        except Exception as error:
            if cpu is None or device.kind == "cpu" or not is_out_of_memory(error):
                raise
            problem = first_line(error)
        else:
            if plan is not None and device.kind != "cpu":
                after = free_memory(device)
                check_taken(plan, str(device), before, after, config.on_event)
            return loaded
    elif cpu is None and plan is not None:
        raise DoesNotFitError(plan)
    assert cpu is not None  # noqa: S101 - without it, the error was raised
    release(device)  # outside the except block, where the traceback held the half-loaded model
    warn_fallback(
        config.on_event,
        what=_WORK[config.task],
        source=str(device),
        target="cpu",
        reason=until_closed(f"the model does not fit: {problem}", device),
    )
    return backends.create(config, cpu)


def _no_place(device: Device, plan: ComponentPlan | None) -> str | None:
    """Say why the plan has no place for the model on a GPU, None where it has."""
    if plan is None or device.kind == "cpu" or plan.on(str(device)):
        return None
    return plan.reason


def _with_table(
    config: EmbedderConfig, device: Device, plan: ComponentPlan | None
) -> EmbedderConfig:
    """Leave the table of token embeddings to the CPU, where the plan says so."""
    if plan is None or device.kind == "cpu" or not plan.embedding_on_cpu:
        return config
    warn_fallback(
        config.on_event,
        what=f"the embedding table of {config.model}",
        source=str(device),
        target="cpu",
        reason=plan.reason,
    )
    return replace(config, backend="torch", options={**config.options, "embedding_device": "cpu"})
