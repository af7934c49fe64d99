"""What a batch that ran out of memory leads to, on the device where it did and on the next one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from langchain_gpu.engine import ladder as module
from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.budgets import Budget, Budgets, default_budget
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors
from langchain_gpu.engine.ladder import EngineOutOfMemoryError, Ladder
from langchain_gpu.engine.work import Work
from langchain_gpu.events import BudgetChanged, Event, FallbackWarning, FellBack
from langchain_gpu.hardware.devices import Device
from tests.unit_tests.fake_encoder import CPU, GPU, FakeEncoder, Flying, expected


@dataclass(frozen=True)
class Call:
    tokens: Tokenized
    start: int = 0


def works(*batches: Sequence[int]) -> list[Work[Call]]:
    """Batches of items, in this order."""
    return [
        Work(Call(Tokenized(np.array(items), np.array(items))), np.arange(len(items)))
        for items in batches
    ]


def make(encoder: FakeEncoder, budget: int = 1000, **options: Any) -> Ladder:
    return Ladder(encoder, Budgets(object(), fixed=budget), **options)


def run(ladder: Ladder, *batches: Sequence[int]) -> list[int]:
    """Return the items that came back."""
    return [int(vector[0]) for found in ladder.run(works(*batches)) for vector in found.vectors]


class TestAMoveMeanwhile:
    """A batch that failed before the encoder moved has not been tried where it is now."""

    def test_two_callers_whose_items_are_too_large(self) -> None:
        class Crowded(FakeEncoder):
            def forward(self, features: Any) -> Pending:
                """Fail on the card only when the other caller waits for its turn."""
                until = time.monotonic() + 5
                while self.device != CPU and ladder.callers < 2 and time.monotonic() < until:
                    time.sleep(0.001)
                return super().forward(features)

        encoder = Crowded({"cuda:0": 60})
        ladder = make(encoder, fallback=[CPU])
        with (
            pytest.warns(FallbackWarning, match="cpu, not cuda:0") as caught,
            ThreadPoolExecutor(2) as pool,
        ):
            found = list(pool.map(lambda item: run(ladder, [item]), [90, 80]))
        assert found == [[90], [80]]
        assert len(caught) == len(ladder.fallbacks) == 1

    def test_two_items_under_way(self) -> None:
        encoder = Flying(2, {"cuda:0": 60})
        with pytest.warns(FallbackWarning) as caught:
            found = run(make(encoder, fallback=[CPU]), [90], [80])
        assert sorted(found) == sorted(encoder.computed) == [80, 90]
        assert len(caught) == 1

    def test_a_batch_that_failed_on_the_card_says_nothing_about_the_cpu(self) -> None:
        encoder, events = Flying(2, {"cuda:0": 60}), list[Event]()
        ladder = make(encoder, fallback=[CPU], on_event=events.append)
        with pytest.warns(FallbackWarning):
            found = run(ladder, [20] * 5, [90])
        assert sorted(found) == [20] * 5 + [90]
        assert ladder.budget == 1000
        assert not any(isinstance(event, BudgetChanged) for event in events)


def test_a_device_that_was_left_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, released = FakeEncoder({"cuda:0": 60}), list[tuple[str, str]]()
    monkeypatch.setattr(
        module, "release", lambda device: released.append((str(device), str(encoder.device)))
    )
    with pytest.warns(FallbackWarning):
        run(make(encoder, fallback=[CPU]), [90])
    assert released[-1] == ("cuda:0", "cpu"), "not while the weights were there"


class TestOneItemOnceMore:
    """A runtime that ran out of memory gives up what it kept for speed: that may be enough."""

    @pytest.mark.parametrize("in_flight", [1, 2])
    def test_it_fits_then(self, in_flight: int) -> None:
        class Recorded(Flying):
            def _compute(self, features: Any) -> Any:
                try:
                    return super()._compute(features)
                finally:
                    self.capacity.clear()

        encoder = Recorded(in_flight, {"cuda:0": 60})
        ladder = make(encoder, fallback=[CPU])
        assert run(ladder, [90]) == encoder.computed == [90]
        assert (encoder.failures, encoder.device, ladder.fallbacks) == (1, GPU, [])

    def test_when_it_is_started(self) -> None:
        class Recorded(FakeEncoder):
            def forward(self, features: Any) -> Pending:
                try:
                    return super().forward(features)
                finally:
                    self.capacity.clear()

        encoder = Recorded({"cuda:0": 60})
        assert run(make(encoder, fallback=[CPU]), [90]) == encoder.computed == [90]
        assert encoder.device == GPU

    def test_with_no_other_batch_beside_it(self) -> None:
        class Shared(FakeEncoder):
            """What is on its way together must fit together."""

            def __init__(self) -> None:
                super().__init__()
                self.rules = BatchRules(in_flight=2)
                self.held: dict[object, int] = {}
                self.crowded: set[object] = set()

            def forward(self, features: Any) -> Pending:
                flight = object()
                self.held[flight] = int(features.sum())
                if self.device == GPU and sum(self.held.values()) > 80:
                    self.crowded |= set(self.held)

                def land() -> Vectors:
                    del self.held[flight]
                    if flight in self.crowded:
                        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 50.")
                    return expected(features)

                return land

        encoder = Shared()
        assert run(make(encoder, fallback=[CPU]), *[[50]] * 6) == [50] * 6
        assert encoder.device == GPU

    def test_and_not_again(self) -> None:
        encoder = FakeEncoder({"cuda:0": 60})
        with pytest.warns(FallbackWarning):
            assert run(make(encoder, fallback=[CPU]), [90]) == [90]
        assert encoder.failures == 2
        with pytest.raises(EngineOutOfMemoryError, match="item 0 .90 tokens. .*even alone"):
            run(make(FakeEncoder({"cuda:0": 60})), [90])


class TestNoRoomForTheProbe:
    class Full(FakeEncoder):
        def peak_bytes(self, tokens: int) -> int | None:
            if self.device == CPU:
                return None
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")

    def test_the_encoder_moves(self) -> None:
        encoder, events = self.Full(), list[Event]()
        small = Budgets(object(), planned={str(GPU): 2})
        with pytest.warns(FallbackWarning, match="cpu, not cuda:0: not even one token.* 2 MiB"):
            ladder = Ladder(encoder, small, [CPU], events.append)
        assert [type(event) for event in events] == [FellBack]
        assert (encoder.device, ladder.budget) == (CPU, default_budget(CPU))
        assert run(ladder, [90]) == [90]

    def test_or_says_what_the_device_said(self) -> None:
        with pytest.raises(torch.OutOfMemoryError, match="2 MiB"):
            Ladder(self.Full(), Budgets(object(), planned={str(GPU): 2}))


def test_nobody_moves_to_where_they_are() -> None:
    class Settled(FakeEncoder):
        def to(self, device: Device) -> None:
            raise AssertionError("a second copy")

    with pytest.raises(EngineOutOfMemoryError, match="does not fit on cpu even alone"):
        run(make(Settled({"cpu": 60}, CPU), fallback=[replace(CPU, reason="another")]), [90])


def test_memory_that_was_short_for_a_moment_is_used_again() -> None:
    """A small batch fails while somebody else has the memory; later there is room again."""
    encoder, events = FakeEncoder({"cuda:0": 30}), list[Event]()
    budgets = Budgets(object(), fixed=1000)
    ladder = Ladder(encoder, budgets, on_event=events.append)
    assert run(ladder, [20] * 5) == [20] * 5
    assert ladder.budget == 20
    assert budgets.first(encoder).tokens == 1000, "a small batch speaks for nobody else"
    encoder.capacity.clear()
    run(ladder, *[[20] * 50] * 200)
    assert ladder.budget == 1000
    assert encoder.forwards[-1] == ("cuda:0", 50)
    changes = [event.new_tokens for event in events if isinstance(event, BudgetChanged)]
    assert changes == [50, 20, 40, 80, 160, 320, 640, 1000]


def test_what_a_landing_batch_says_of_a_device_that_was_left() -> None:
    encoder = Flying(1)
    ladder = make(encoder)
    ladder._budget = Budget("cpu", 10, most=1000)
    run(ladder, *[[20]] * 100)
    assert ladder.budget == 10
