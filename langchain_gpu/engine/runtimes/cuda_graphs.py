"""Recording and replaying one forward pass as a CUDA graph.

Not measured yet: written on a machine without a card.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import torch

from langchain_gpu.engine.runtimes.buckets import Features
from langchain_gpu.engine.runtimes.graphs import Recording, Run

_one_at_a_time = Lock()  # torch records one graph of a process at a time, whatever the card


class CudaRecorder:
    """Records on an NVIDIA card.

    Args:
        device: torch's name of it.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream = _stream_of(self._device)
        self._pool: Any = None  # one for all: graphs never run at the same time

    def record(self, run: Run, features: Features) -> Recording:
        """See `Recorder`. Runs twice before, as libraries set themselves up on first use."""
        with _one_at_a_time, torch.cuda.device(self._device), torch.inference_mode():
            static = {
                name: value.to(self._device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                run(static)
                run(static)
            self._stream.synchronize()
            graph: Any = torch.cuda.CUDAGraph()
            # The stream around it: torch leaves its own on a thread whose recording broke off.
            # Thread-local: feeders pin memory meanwhile, which a global capture forbids.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ),
            ):
                rows = run(static)
            self._pool = self._pool or graph.pool()
            return _CudaRecording(graph, static, rows)

    def forget(self) -> None:
        """See `Recorder`. A pool that no graph holds any more takes no new one."""
        self._pool = None

    def seconds(self, call: Callable[[], object], times: int) -> float:
        """See `Recorder`; after one call that is not counted."""
        with torch.cuda.device(self._device), torch.inference_mode():
            stream = torch.cuda.current_stream(self._device)
            began: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            call()
            began.record(stream)
            for _ in range(times):
                call()
            ended.record(stream)
            ended.synchronize()
            return float(began.elapsed_time(ended)) / 1000


@cache
def _stream_of(device: torch.device) -> Any:
    """Return where all models of the process record on a card.

    cuBLAS keeps up to 32 MiB for every stream it was used on, until the process ends: a stream for
    each model would take as much again with every model that is loaded.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _CudaRecording:
    graph: Any
    static: Features
    rows: torch.Tensor

    def replay(self, features: Features) -> torch.Tensor:
        for name, value in features.items():
            if isinstance(value, torch.Tensor):
                self.static[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return self.rows
