"""The device map of a transformers model, planned before it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from langchain_gpu.generators.options import Options
from langchain_gpu.hardware.devices import Device
from langchain_gpu.hardware.memory import free_memory
from langchain_gpu.models.info import ModelInfo
from langchain_gpu.planner import Chat, ComponentPlan, Policy
from langchain_gpu.planner.components import DTYPE_BYTES
from langchain_gpu.planner.drive import DoesNotFitError
from langchain_gpu.planner.single import plan_single
from langchain_gpu.utils.extras import install_line, is_installed

# Tokens of the one chat that must fit beside the weights; the cache of further chats grows as they
# are generated, and batches are split where memory runs out.
_WINDOW = 4096


def plan_model(path: Path, device: Device, dtype: str, options: Options) -> ComponentPlan | None:
    """Plan a model on a GPU against what is free there now, or return the caller's own plan.

    None on a CPU, for a `.gguf` file and for quantized weights, whose size in memory is another,
    and where headers or memory do not say enough.

    Raises:
        DoesNotFitError: No memory here holds it, or only the CPU's and `fallback="error"`.
    """
    if options.plan is not None:
        return options.plan
    if device.kind == "cpu" or path.is_file() or options.load.get("quantization_config"):
        return None

    def chat(info: ModelInfo) -> Chat | None:
        if info.dtype not in DTYPE_BYTES or info.role != "decoder":
            return None
        window = min(options.n_ctx or _WINDOW, info.context_length or _WINDOW, _WINDOW)
        return Chat(info=info, context=window, dtype=dtype, engine="transformers")

    policy = Policy(partial=options.fallback == "cpu")
    found = plan_single(path, replace(device, memory_free=free_memory(device)), chat, policy)
    if found is None:
        return None
    if found.decision == "refused" or (found.decision == "cpu" and options.fallback == "error"):
        raise DoesNotFitError(found)
    if is_parted(found) and not is_installed("accelerate"):
        reason = f"{found.reason}, for which accelerate is missing ({install_line('local-gguf')})"
        return replace(found, decision="cpu", reason=reason)
    return found


def is_parted(planned: ComponentPlan) -> bool:
    """Say whether layers lie on more than one device."""
    return sum(bool(share.layers) for share in planned.shares) > 1


def device_map(path: Path, planned: ComponentPlan) -> dict[str, str | int]:
    """Return the device of each module, as the `device_map` of `from_pretrained`.

    The first layers go to the first device of the plan and so on; the embedding table stands with
    the first layer, the final norm and the output matrix with the last.

    Args:
        path: Folder of the model; only its configuration is read.
        planned: Shares with their layers, GPUs first.
    """
    config = AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    name, layers = _blocks(model, config)
    places: list[str | int] = []
    for share in planned.shares:
        places += [_place(share.device)] * (share.layers or 0)
    if len(places) != layers:
        raise ValueError(f"the plan places {len(places)} layers, and {path.name} has {layers}")
    found: dict[str, str | int] = {f"{name}.{at}": place for at, place in enumerate(places)}
    table = _name_of(model, model.get_input_embeddings())
    found[table] = places[0]
    for other in _others(model, {name, table}):
        found[other] = places[-1]
    if config.get_text_config().tie_word_embeddings:
        output = model.get_output_embeddings()
        if output is not None:  # one tensor cannot lie in two places
            found[_name_of(model, output)] = places[0]
    return found


def _place(device: str) -> str | int:
    """Return a device as accelerate names it: CUDA's and ROCm's by number."""
    kind, _, index = device.partition(":")
    if kind in {"cuda", "rocm"}:
        return int(index or 0)
    return "mps" if kind == "mps" else device


def _blocks(model: Any, config: Any) -> tuple[str, int]:
    """Return the name of the list of layers, and how many it holds."""
    count = config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, count
    raise ValueError(f"{type(model).__name__} has no list of {count} layers to place")


def _name_of(model: Any, wanted: Any) -> str:
    names: list[str] = [name for name, module in model.named_modules() if module is wanted]
    return names[0]


def _others(model: Any, placed: set[str]) -> list[str]:
    """Return the names of modules that hold all that `placed` does not, none inside another."""
    found: list[str] = []

    def walk(name: str, module: Any) -> None:
        if name in placed:
            return
        if not any(each == name or each.startswith(f"{name}.") for each in placed) and name:
            found.append(name)
            return
        for child, inner in module.named_children():
            walk(f"{name}.{child}" if name else child, inner)

    walk("", model)
    return found


__all__ = ["device_map", "is_parted", "plan_model"]
