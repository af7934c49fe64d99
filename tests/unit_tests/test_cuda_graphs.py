"""Recording on a card, with torch's own context managers; what they ask the driver is played."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from langchain_gpu.engine.runtimes import cuda_graphs
from langchain_gpu.engine.runtimes.cuda_graphs import CudaRecorder

CARD = torch.device("cuda", 0)
BROKEN = "CUDA error: operation failed due to a previous error during capture"


class Stream:
    """A queue of work on the card."""

    device = CARD

    def wait_stream(self, _: Any) -> None: ...

    def synchronize(self) -> None: ...


class Graph:
    """A graph of the driver's."""

    def __init__(self, card: Card) -> None:
        self._card = card

    def capture_begin(self, *pool: Any, capture_error_mode: str, **_: Any) -> None:
        assert self._card.current is not self._card.default, "the default stream records nothing"
        assert not self._card.capturing, "only one capture may be underway in a process"
        self._card.capturing = True
        self._card.captures.append((pool, capture_error_mode))

    def capture_end(self) -> None:
        self._card.capturing = False
        if self._card.broken:
            raise torch.AcceleratorError(BROKEN)

    def pool(self) -> tuple[int, int]:
        return (0, 1)


class Card:
    """The driver's side: one card, and the streams work goes to."""

    def __init__(self) -> None:
        self.default = Stream()
        self._streams = threading.local()
        self.capturing = self.broken = False
        self.captures: list[tuple[Any, str]] = []

    @property
    def current(self) -> Stream:
        found: Stream = getattr(self._streams, "current", self.default)
        return found

    def set_stream(self, stream: Stream) -> None:
        self._streams.current = stream


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card = Card()
    played: dict[str, Any] = {
        "Stream": lambda _: Stream(),
        "CUDAGraph": lambda: Graph(card),
        "current_stream": lambda _=None: card.current,
        "set_stream": card.set_stream,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "_exchange_device": lambda _: 0,
        "_maybe_exchange_device": lambda _: 0,
    }
    for name, value in played.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.StreamContext, "__init__", stream_context)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    cuda_graphs._stream_of.cache_clear()
    yield card
    cuda_graphs._stream_of.cache_clear()


def stream_context(self: Any, stream: Any) -> None:
    """As on a machine with a card, where torch knows the index of the current one."""
    self.stream, self.idx = stream, 0
    self.src_prev_stream = self.dst_prev_stream = None


def test_a_graph_is_recorded_on_the_stream_that_warmed_it_up(card: Card) -> None:
    recorder = CudaRecorder("cuda:0")
    where: list[Stream] = []

    def run(features: dict[str, Any]) -> torch.Tensor:
        where.append(card.current)
        return torch.zeros(features["rows"], 3)

    for _ in range(2):
        recorder.record(run, {"rows": 2})
    assert set(where) == {recorder._stream}, "warmed up where it is recorded"
    assert card.captures == [((), "thread_local"), (((0, 1),), "thread_local")]
    assert card.current is card.default


def test_a_recording_that_breaks_off_leaves_the_thread_on_its_stream(card: Card) -> None:
    """torch ends its own context early where the driver refuses to end the capture."""
    recorder = CudaRecorder("cuda:0")
    card.broken = True
    with pytest.raises(torch.AcceleratorError, match="previous error during capture"):
        recorder.record(lambda _: torch.zeros(2, 3), {})
    assert card.current is card.default
    assert recorder._pool is None


@pytest.mark.usefixtures("card")
def test_models_share_the_stream_on_which_they_record() -> None:
    """cuBLAS keeps memory for every stream, forever."""
    first, second = CudaRecorder("cuda:0"), CudaRecorder("cuda:0")
    assert first._stream is second._stream
    assert first._stream is not CudaRecorder("cuda:1")._stream


def test_cards_record_one_after_the_other(card: Card) -> None:
    inside, go = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def slow(_: Any) -> torch.Tensor:
        if card.capturing:
            inside.set()
            go.wait(10)
        return torch.zeros(1)

    def record(run: Any) -> None:
        try:
            CudaRecorder("cuda:0").record(run, {})
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)

    first = threading.Thread(target=record, args=[slow])
    second = threading.Thread(target=record, args=[lambda _: torch.zeros(1)])
    first.start()
    assert inside.wait(10)
    second.start()
    second.join(0.2)  # long enough to fail, if it does not wait
    go.set()
    for thread in (first, second):
        thread.join(10)
    assert errors == []
    assert len(card.captures) == 2
