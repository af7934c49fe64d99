"""Where Ollama loaded a model (`/api/ps`, `/api/show`), compared with what was asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from langchain_gpu.events import warn_fallback
from langchain_gpu.generators.options import Options
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError

_WHOLE = 0.99  # of a model's bytes: sizes are Ollama's estimates
_SLACK = 0.5  # layers differ in size, so a share of layers is not that share of bytes


@dataclass(frozen=True, slots=True)
class Placed:
    """A model in Ollama's memory.

    Attributes:
        size: Bytes it takes, its window's cache included.
        on_gpu: Of these, bytes on GPUs.
        window: Tokens of its window; None where the server is too old to say.
    """

    size: int
    on_gpu: int
    window: int | None

    @property
    def share(self) -> float:
        """Part of it on GPUs, 0 to 1."""
        return self.on_gpu / self.size if self.size else 0.0

    def __str__(self) -> str:
        """Say it in a few words."""
        if not self.on_gpu:
            return f"all {self.size / 1e9:.2f} GB on its CPU"
        if self.share >= _WHOLE:
            return f"all {self.size / 1e9:.2f} GB on its GPU"
        return f"{self.share:.0%} of {self.size / 1e9:.2f} GB on its GPU, the rest on its CPU"


def find(model: str, answer: Mapping[str, Any]) -> Placed | None:
    """Find the model in what `/api/ps` answers; None if it is not loaded."""
    wanted = _full(model)
    for row in answer.get("models") or ():
        if wanted in (_full(row.get("model") or ""), _full(row.get("name") or "")):
            size, on_gpu = int(row.get("size") or 0), int(row.get("size_vram") or 0)
            return Placed(size, on_gpu, row.get("context_length") or None)
    return None


def by_plan(options: Options) -> Options:
    """Return the options with what a plan says of layers and window, where they were left open."""
    if (plan := options.plan) is None:
        return options
    layers = plan.n_gpu_layers if options.n_gpu_layers is None else options.n_gpu_layers
    return replace(options, n_ctx=options.n_ctx or plan.context, n_gpu_layers=layers)


def load_options(options: Options) -> dict[str, Any]:
    """Return what was asked for, as Ollama calls it.

    Raises:
        ValueError: The device is none that Ollama can be asked for, or contradicts the layers.
    """
    device, layers = options.device, options.n_gpu_layers
    if not re.fullmatch(r"auto|cpu|cuda|rocm|xpu|mps", device):
        raise ValueError(
            f"device={device!r}: Ollama chooses among its GPUs itself; write 'cuda', and start it "
            f"with CUDA_VISIBLE_DEVICES (ROCR_VISIBLE_DEVICES for AMD) to name one"
        )
    if device == "cpu":
        if layers:
            raise ValueError(f"device='cpu' and n_gpu_layers={layers} contradict each other")
        layers = 0
    found = {
        "num_ctx": options.n_ctx,
        "num_thread": options.n_threads,
        "num_gpu": None if layers == -1 else layers,
    }
    return {name: value for name, value in found.items() if value is not None}


def device_of(host: str, placed: Placed | None) -> Device:
    """Return the server as a device, with where the model is as the reason."""
    where = "the model is not loaded there now" if placed is None else f"it keeps {placed}"
    return Device(kind="remote", name=host, reason=f"Ollama at {host}: {where}")


def problem_of(options: Options, placed: Placed, layers: int | None) -> str | None:
    """Say what is missing on the GPU of what was asked for; None if nothing.

    Args:
        options: What was asked for.
        placed: What came of it.
        layers: The model's own layers, None where unknown.
    """
    asked = options.n_gpu_layers
    named = options.device not in ("auto", "cpu")
    if not named and not asked:
        return None
    if asked is None or asked == -1:
        wanted = _WHOLE if named else 0.0
    else:
        wanted = min(1.0, asked / (layers + 1)) if layers else 0.0  # the output is one more
        wanted = _WHOLE if wanted >= 1.0 else wanted * _SLACK
    if placed.on_gpu and placed.share >= wanted:
        return None
    what = f"device={options.device!r}" if named else f"n_gpu_layers={asked}"
    return (
        f"{what} was asked for, and Ollama keeps {placed}: its log says why (a driver it does not "
        f"find, or too little free GPU memory: a smaller n_ctx takes less)"
    )


def report(options: Options, placed: Placed, problem: str) -> None:
    """Say that less is on the GPU than was asked for, by the caller's policy.

    Raises:
        DeviceNotFoundError: `fallback="error"`.
    """
    source = options.device if options.device != "auto" else "the GPU"
    if options.fallback == "error":
        raise DeviceNotFoundError(f"fallback='error': {problem}")
    target = "cpu" if not placed.on_gpu else f"cpu and {placed.share:.0%} on the GPU"
    warn_fallback(options.listener, what="chat", source=source, target=target, reason=problem)


def _full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


__all__ = ["Placed", "by_plan", "device_of", "find", "load_options", "problem_of", "report"]
