"""Puts the cards into this process: into torch, and into what the package sees of the machine."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # reads torch's functions: before they change

from tests.unit_tests.simulated_card.guard import load_guard
from tests.unit_tests.simulated_card.memory import MEMORIES, Memory

_NAMES = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe")


def install(guard: Path) -> None:
    """Change this process for good; before anything of the package is imported."""
    load_guard(guard)
    # A view of a wrapped tensor cannot be made in inference mode.
    torch.inference_mode = _no_grad  # type: ignore[assignment]
    for name, value in _cuda().items():
        setattr(torch.cuda, name, value)
    torch.accelerator.is_available = lambda: True
    _change_tensors()
    _change_threads()
    _change_machine()


def _no_grad(mode: Any = True) -> Any:  # noqa: FBT002 - torch's own signature
    return torch.enable_grad() if mode is False else torch.no_grad()


class _Graph:
    """A recorded forward pass."""

    def __init__(self) -> None:
        self.steps: Sequence[Any] = ()

    def pool(self) -> tuple[int, int]:
        return 0, id(self)

    def replay(self) -> None:
        from tests.unit_tests.simulated_card.card import repeat

        repeat(self.steps)


@contextlib.contextmanager
def _graph(graph: _Graph, **_: Any) -> Iterator[None]:
    from tests.unit_tests.simulated_card.card import recording

    with recording() as steps:
        yield
    graph.steps = steps


class _Stream:
    def __init__(self, *_: Any) -> None:
        """All work is done in order, and at once."""

    def wait_stream(self, _: Any) -> None: ...

    def synchronize(self) -> None: ...


class _Event:
    """A point in time, on a clock that runs faster and faster.

    What is timed first is the faster: a graph, which is then kept.
    """

    _times = iter(range(10**9))

    def __init__(self, **_: Any) -> None:
        self._at = 0

    def record(self, _: Any = None) -> None:
        self._at = next(self._times)

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: _Event) -> float:
        return float(other._at**2 - self._at**2)


def _cuda() -> dict[str, Callable[..., Any]]:
    stream = _Stream()
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: len(MEMORIES),
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: SimpleNamespace(
            name=_NAMES[_index(device)], major=9, minor=0, total_memory=_memory(device).total
        ),
        "get_device_capability": lambda _=None: (9, 0),
        "get_device_name": lambda device=None: _NAMES[_index(device)],
        "is_bf16_supported": lambda *_, **__: True,
        "Stream": _Stream,
        "Event": _Event,
        "CUDAGraph": _Graph,
        "graph": _graph,
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(),
        "current_stream": lambda _=None: stream,
        "synchronize": nothing,
        "empty_cache": nothing,
        "reset_peak_memory_stats": lambda device=None: _memory(device).reset_peak(),
        "memory_allocated": lambda device=None: _memory(device).allocated,
        "memory_reserved": lambda device=None: _memory(device).allocated,
        "max_memory_allocated": lambda device=None: _memory(device).peak,
        "mem_get_info": lambda device=None: _memory(device).info,
    }


def _index(device: Any) -> int:
    if device is None or isinstance(device, int):
        return device or 0
    return torch.device(device).index or 0


def _memory(device: Any) -> Memory:
    return MEMORIES[_index(device)]


def _change_tensors() -> None:
    """Do what torch does in C++, without an operation."""
    from tests.unit_tests.simulated_card.card import Card, wait_for

    tensor: Any = torch.Tensor
    tolist, getitem, setitem = tensor.tolist, tensor.__getitem__, tensor.__setitem__
    module: Any = torch
    compatible = module._has_compatible_shallow_copy_type

    def as_list(self: Any) -> Any:
        if isinstance(self, Card):
            wait_for("tolist")
            return tolist(self.on_cpu)
        return tolist(self)

    def index(self: Any, at: Any) -> Any:
        return torch.tensor(at) if isinstance(self, Card) and isinstance(at, list) else at

    tensor.tolist = as_list
    tensor.__getitem__ = lambda self, at: getitem(self, index(self, at))
    tensor.__setitem__ = lambda self, at, value: setitem(self, index(self, at), value)
    tensor.pin_memory = lambda self, *_: self.clone()
    module._has_compatible_shallow_copy_type = lambda one, other: (
        compatible(one, other) and not isinstance(one, Card) and not isinstance(other, Card)
    )


def _change_threads() -> None:
    """torch sends operations here thread by thread."""
    from tests.unit_tests.simulated_card import card

    operations: Any = card.Operations
    own = threading.Thread.run

    def run(self: threading.Thread) -> None:
        with operations(), card.Functions():
            own(self)

    threading.Thread.run = run  # type: ignore[method-assign]
    operations().__enter__()
    modes: Any = card.Functions()
    modes.__enter__()


def _change_machine() -> None:
    """Let the package see two cards, one smaller than the other."""
    from tests.unit_tests.machines import TWO_H100

    facts = importlib.import_module("langchain_gpu.hardware.facts")
    devices = importlib.import_module("langchain_gpu.hardware.devices")
    cards = tuple(
        replace(card, name=name, memory_total=memory.total, memory_free=memory.total)
        for card, name, memory in zip(TWO_H100.nvidia.gpus, _NAMES, MEMORIES, strict=True)
    )
    nvidia = replace(TWO_H100.nvidia, gpus=cards)
    machine = replace(TWO_H100, nvidia=nvidia, cpu=facts.read_facts().cpu)
    for module in (facts, devices):
        vars(module)["read_facts"] = lambda: machine
