"""Load a GGUF model onto a device: plan, load, compare with the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import xllamacpp

from langchain_gpu.events import warn_fallback
from langchain_gpu.generators.options import Options
from langchain_gpu.generators.placement import Place, fall_back, place_layers
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.llama.errors import ModelLoadError
from langchain_gpu.llama.gpus import Info, gpus_of
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.llama.shared import running_server, shared_server
from langchain_gpu.models.info import ModelInfo
from langchain_gpu.planner import Chat, ComponentPlan, Policy
from langchain_gpu.planner.drive import DoesNotFitError, check_taken, tensor_split
from langchain_gpu.planner.single import plan_single

# Four chats at once write 1.6 times as many tokens as one after the other on a two-core CPU.
SLOTS = 4
# The windows of all slots are allocated at the start; a model's own window may be 128k tokens.
WINDOW = 4096
_FEWEST = 512


def start(path: Path, options: Options) -> tuple[Device, LlamaServer]:
    """Load a file onto the device that was asked for, or onto the CPU where the policy allows.

    Which layers go to a GPU is llama.cpp's own choice, made with the real graph, unless a plan or
    `n_gpu_layers` says so. The window is cut where memory is short and none was asked for.

    Raises:
        ModelLoadError: The file is missing or damaged, or llama.cpp could not load it.
        DoesNotFitError: No memory here holds it.
        DeviceNotFoundError: The device cannot be used and `fallback="error"`.
    """
    infos = xllamacpp.get_device_info()
    place = place_layers(options.device, infos)
    settings = _settings(path, options)
    if (shared := _running(settings, place, options)) is not None:
        return place.device, shared  # what it takes is no longer free: another plan would be wrong
    planned = options.plan if options.plan is not None else _own_plan(path, options, place)
    if planned is not None and planned.context is not None:
        settings = replace(settings, n_ctx=options.n_ctx or planned.context)
    if place.device.kind == "cpu":
        problem = place.problem or _missed_gpu(place, options)
        if problem is None:
            return place.device, shared_server(settings)
    else:
        on_gpu = _on_gpu(settings, place, options)
        if not on_gpu.n_gpu_layers:
            return select_device("cpu"), shared_server(settings)
        try:
            server = shared_server(on_gpu)
        except ModelLoadError as error:
            if options.fallback == "error":
                raise
            problem = str(error)
        else:
            return _report(place, planned, infos, options), server
    # Outside the `except`: inside it the traceback would still hold what the failed attempt took.
    return fall_back(options, problem), shared_server(settings)


def _settings(path: Path, options: Options) -> LlamaSettings:
    settings = LlamaSettings(
        path=path.resolve(),
        n_ctx=options.n_ctx or WINDOW,
        n_parallel=options.n_parallel or SLOTS,
        n_gpu_layers=0,
        main_gpu=0,
        n_threads=options.n_threads,
        cores=select_device("cpu").cores or 1,
        cache_dtype=_cache_dtype(options),
    )
    planned = options.plan
    if planned is None:
        return settings
    return replace(
        settings,
        n_ctx=options.n_ctx or planned.context or WINDOW,
        n_parallel=options.n_parallel or planned.sequences or SLOTS,
        ubatch=planned.ubatch or settings.ubatch,
    )


def _cache_dtype(options: Options) -> str:
    planned = options.plan.cache_dtype if options.plan is not None else None
    return options.load.get("cache_dtype") or planned or "float16"


def _running(settings: LlamaSettings, place: Place, options: Options) -> LlamaServer | None:
    if place.problem is not None or _missed_gpu(place, options):
        return None
    on_cpu = place.device.kind == "cpu"
    return running_server(settings if on_cpu else _on_gpu(settings, place, options))


def _own_plan(path: Path, options: Options, place: Place) -> ComponentPlan | None:
    """Plan against what is free now; None where the user placed the layers, or nothing is known."""
    if options.n_gpu_layers is not None:
        return None

    def chat(info: ModelInfo) -> Chat:
        return Chat(
            info=info,
            context=options.n_ctx,
            sequences=options.n_parallel or SLOTS,
            cache_dtype=_cache_dtype(options),
        )

    policy = Policy(context=WINDOW, min_context=_FEWEST)
    found = plan_single(path, place.device, chat, policy)
    if found is None:
        return None
    if found.decision == "refused":
        raise DoesNotFitError(found)
    wanted = options.n_ctx or min(WINDOW, found.model_context or WINDOW)
    if found.context is not None and found.context < wanted:
        warn_fallback(
            options.listener,
            what=f"the window of {path.name}",
            source=f"{wanted:,} tokens",
            target=f"{found.context:,} tokens",
            reason=found.reason,
        )
    return found


def _on_gpu(settings: LlamaSettings, place: Place, options: Options) -> LlamaSettings:
    settings = replace(settings, main_gpu=place.main_gpu)
    if options.n_gpu_layers is not None:
        return replace(settings, n_gpu_layers=options.n_gpu_layers)
    if options.plan is not None:
        return replace(
            settings,
            n_gpu_layers=options.plan.n_gpu_layers or 0,
            tensor_split=tensor_split(options.plan),
            fit=False,
        )
    return replace(settings, n_gpu_layers=-1)


def _missed_gpu(place: Place, options: Options) -> str | None:
    """Say that layers were meant for a GPU that is not here, None where they were not."""
    layers = options.n_gpu_layers
    if layers is None and options.plan is not None:
        layers = options.plan.n_gpu_layers
    if place.device.kind == "cpu" and (layers or 0) > 0:
        return f"n_gpu_layers={layers}, but {place.device.reason}"
    return None


def _report(
    place: Place,
    planned: ComponentPlan | None,
    before: Sequence[Info],
    options: Options,
) -> Device:
    """Return the device with what the model took there as part of its reason."""
    device = place.device
    if planned is None:
        return device
    free = _free(before, place.main_gpu)
    left = _free(xllamacpp.get_device_info(), place.main_gpu)
    said = check_taken(planned, str(device), free, left, options.listener)
    return replace(device, reason=f"{device.reason}: {said}")


def _free(infos: Sequence[Info], number: int) -> int | None:
    gpus = gpus_of(infos)
    return int(gpus[number]["memory_free"]) if number < len(gpus) else None


__all__ = ["SLOTS", "WINDOW", "start"]
