"""Several batches on their way at once, and devices that want their batches differently."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.encoder import Pending, Tokenized
from langchain_gpu.engine.engine import Engine
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.events import BatchDone, BudgetChanged, Event, FallbackWarning
from langchain_gpu.hardware.devices import Device
from tests.unit_tests.fake_encoder import CPU, FakeEncoder, Flying, expected


def make(encoder: FakeEncoder, budget: int = 1000, **options: Any) -> Engine[int]:
    return Engine([encoder], budgets=Budgets(object(), fixed=budget), **options)


def lengths(count: int) -> list[int]:
    found: list[int] = np.random.default_rng(count).integers(1, 100, count).tolist()
    return found


@pytest.mark.parametrize("in_flight", [1, 2, 7])
def test_as_many_as_the_rules_allow(in_flight: int) -> None:
    items, encoder = lengths(3000), Flying(in_flight)
    rows = make(encoder).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert encoder.most == in_flight
    assert rows.report.forward_seconds <= rows.report.seconds


def test_memory_that_runs_out_under_way_costs_no_finished_row() -> None:
    items, encoder = lengths(1000), Flying(3, {"cuda:0": 400})
    events: list[Event] = []
    rows = make(encoder, budget=4000, on_event=events.append).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert sorted(encoder.computed) == sorted(items), "a row was computed twice"
    assert encoder.failures >= 1
    budgets = [each.new_tokens for each in events if isinstance(each, BudgetChanged)]
    assert budgets == sorted(budgets, reverse=True), "a late failure raised the budget again"
    assert budgets[-1] <= 400


def test_one_item_too_large_under_way_moves_to_the_cpu() -> None:
    items, encoder = [*lengths(500), 90_000], Flying(2, {"cuda:0": 5000})
    with pytest.warns(FallbackWarning, match="one item of 90000 tokens does not fit"):
        rows = make(encoder, budget=4000, fallback=[CPU]).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert sorted(encoder.computed) == sorted(items)


def test_one_item_too_large_and_nowhere_to_go() -> None:
    with pytest.raises(EngineOutOfMemoryError, match="item 5000 .90000 tokens. does not fit"):
        make(Flying(2, {"cuda:0": 5000}), budget=4000).run([*lengths(5000), 90_000])


def test_rows_end_to_end_cost_their_tokens() -> None:
    encoder = FakeEncoder()
    encoder.rules = BatchRules(padded=False)
    events: list[Event] = []
    items = [*range(1, 101)] * 10
    rows = make(encoder, budget=500, on_event=events.append).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert rows.report.padding == 1.0
    batches = [each for each in events if isinstance(each, BatchDone)]
    assert max(each.tokens for each in batches) <= 500
    assert len(batches) <= 1.25 * sum(items) / 500


class TwoForms(FakeEncoder):
    """Features of the card are of no use on the CPU, and the other way round."""

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> Any:
        return str(self.device), super().prepare(tokens, rows)

    def forward(self, features: Any) -> Pending:
        device, numbers = features
        assert device == str(self.device), "features of another device"
        return super().forward(numbers)

    def to(self, device: Device) -> None:
        super().to(device)
        self.rules = BatchRules(padded=device.kind == "cpu")


def test_batches_that_were_prepared_before_a_move_are_prepared_again() -> None:
    encoder = TwoForms({"cuda:0": 50})
    encoder.rules = BatchRules(padded=False)
    items = lengths(3000)
    with pytest.warns(FallbackWarning):
        rows = make(encoder, fallback=[CPU]).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert set(rows.report.batches) == {"cpu"}


def test_every_device_takes_batches_of_its_own_size() -> None:
    small = FakeEncoder(
        {"cuda:1": 200}, Device(kind="cuda", index=1, name="small", reason="test"), delay=0.001
    )
    large = FakeEncoder(delay=0.001)
    items = lengths(4000)
    engine: Engine[int] = Engine([large, small], budgets=Budgets(object(), fixed=2000))
    rows = engine.run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert sorted(large.computed + small.computed) == sorted(items)
    after = len(large.forwards)
    engine.run(items)
    per_batch = {
        each: sum(count for _, count in encoder.forwards[start:]) / len(encoder.forwards[start:])
        for each, encoder, start in (("large", large, after), ("small", small, 0))
    }
    assert per_batch["large"] > 3 * per_batch["small"], "the small card shrank the large one's"


def test_a_small_call_goes_where_nobody_works() -> None:
    class Held(FakeEncoder):
        def forward(self, features: Any) -> Pending:
            started.set()
            assert release.wait(20)
            return super().forward(features)

    started, release = threading.Event(), threading.Event()
    second = Device(kind="cuda", index=1, name="another", reason="test")
    busy, idle = Held(), FakeEncoder(device=second)
    engine: Engine[int] = Engine([busy, idle], budgets=Budgets(object(), fixed=1000))
    thread = threading.Thread(target=engine.run, args=([5],))
    thread.start()
    assert started.wait(20)
    try:
        assert engine.run([7]).report.batches == {"cuda:1": 1}
    finally:
        release.set()
        thread.join(20)


def test_token_rows_take_the_place_of_texts() -> None:
    def read(part: Any, start: int) -> Tokenized:
        starts.append(start)
        return FakeEncoder().tokenize([len(row) for row in part], None)

    starts: list[int] = []
    engine: Engine[Any] = Engine([FakeEncoder()], budgets=Budgets(object(), fixed=100))
    rows = engine.run([[9, 9], [9, 9, 9]] * 1000, tokenize=read)
    assert np.array_equal(rows.vectors, expected([2, 3] * 1000))
    assert starts == [0, 1024]


def test_two_cpus_of_unequal_speed_share_unequally_and_honour_the_same_limits() -> None:
    class Prompted(FakeEncoder):
        def tokenize(self, items: Any, options: Any, *, start: int = 0) -> Tokenized:
            seen.append(options)
            return super().tokenize(items, options, start=start)

    seen: list[Any] = []
    fast, slow = Prompted(device=CPU, delay=0.001), Prompted(device=CPU, delay=0.05)
    engine: Engine[int] = Engine([fast, slow], budgets=Budgets(object(), fixed=2000))
    items = lengths(4000)
    rows = engine.run(items, "a prompt", max_items=8)
    assert np.array_equal(rows.vectors, expected(items))
    assert sorted(fast.computed + slow.computed) == sorted(items)
    assert len(slow.computed) > 0
    assert len(fast.computed) > 3 * len(slow.computed)
    assert max(count for _, count in fast.forwards + slow.forwards) <= 8
    assert set(seen) == {"a prompt"}
