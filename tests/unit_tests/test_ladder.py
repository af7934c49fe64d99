"""What a batch that ran out of memory leads to, on the device where it did and on the next one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from langchain_gpu.engine import ladder as module
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.encoder import Pending, Tokenized
from langchain_gpu.engine.ladder import Ladder, Work
from langchain_gpu.events import BudgetChanged, Event, FallbackWarning
from tests.unit_tests.fake_encoder import CPU, FakeEncoder, Flying


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
