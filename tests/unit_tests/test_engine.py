from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors
from langchain_gpu.engine.engine import Engine
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.events import BatchDone, BudgetChanged, Event, FallbackWarning, FellBack
from langchain_gpu.hardware.devices import Device
from tests.unit_tests.fake_encoder import CPU, GPU, FakeEncoder, expected


def make(
    encoders: FakeEncoder | list[FakeEncoder], budget: int = 1000, **options: Any
) -> Engine[int]:
    several = encoders if isinstance(encoders, list) else [encoders]
    return Engine(several, budgets=Budgets(object(), fixed=budget), **options)


def lengths(count: int, longest: int = 100) -> list[int]:
    return np.random.default_rng(count).integers(1, longest, count).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("count", [0, 1, 31, 33, 1024, 5000])
def test_rows_are_in_the_order_of_the_items(count: int) -> None:
    items = lengths(count)
    rows = make(FakeEncoder()).run(items)
    assert np.array_equal(rows.vectors, expected(items).reshape(count, 3))
    assert rows.vectors.dtype == np.float32
    assert rows.report.items == count
    assert rows.report.tokens == sum(items)
    assert rows.report.padded_tokens >= rows.report.tokens


def test_the_report_adds_up() -> None:
    events: list[Event] = []
    items = lengths(3000)
    encoder = FakeEncoder()
    report = make(encoder, on_event=events.append).run(items).report
    batches = [event for event in events if isinstance(event, BatchDone)]
    assert report.batches == {"cuda:0": len(encoder.forwards)}
    assert sum(event.items for event in batches) == 3000
    assert sum(event.padded_tokens for event in batches) == report.padded_tokens
    assert 1.0 <= report.padding < 1.1
    assert report.seconds >= report.forward_seconds > 0
    assert report.items_per_second > 0
    assert report.tokens_per_second > 0


def test_tokenizing_goes_on_while_the_device_works() -> None:
    """The first forward pass waits for the second chunk's tokens, which must come meanwhile."""
    tokenized = threading.Semaphore(0)

    class Patient(FakeEncoder):
        def tokenize(self, items: Sequence[int], options: Any, *, start: int = 0) -> Tokenized:
            tokenized.release()
            return super().tokenize(items, options, start=start)

        def forward(self, features: Any) -> Pending:
            if not self.forwards:
                assert tokenized.acquire(timeout=20)
                assert tokenized.acquire(timeout=20), "nobody tokenized the next chunk"
            return super().forward(features)

    items = lengths(3000)
    assert np.array_equal(make(Patient()).run(items).vectors, expected(items))


def test_out_of_memory_splits_only_the_failing_batch() -> None:
    items = lengths(2000)
    encoder = FakeEncoder({"cuda:0": 400})
    events: list[Event] = []
    rows = make(encoder, budget=4000, on_event=events.append).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert sorted(encoder.computed) == sorted(items), "a finished row was computed twice"
    assert encoder.failures <= 5, "the smaller budget was not remembered"
    changes = [event for event in events if isinstance(event, BudgetChanged)]
    assert [change.new_tokens < change.old_tokens for change in changes] == [True] * len(changes)
    assert rows.report.fallbacks == ()


def test_the_learned_budget_lasts_beyond_the_call() -> None:
    encoder = FakeEncoder({"cuda:0": 400})
    engine = make(encoder, budget=4000)
    engine.run(lengths(500))
    failures = encoder.failures
    engine.run(lengths(700))
    assert encoder.failures == failures


def test_one_item_too_large_moves_to_the_cpu_and_says_so_once() -> None:
    items = [5] * 50 + [90] + [5] * 50
    encoder = FakeEncoder({"cuda:0": 60})
    events: list[Event] = []
    engine = make(encoder, fallback=[CPU], on_event=events.append)
    with pytest.warns(FallbackWarning, match="cpu, not cuda:0: one item of 90 tokens") as caught:
        rows = engine.run(items)
    assert len(caught) == 1
    assert np.array_equal(rows.vectors, expected(items))
    assert sorted(encoder.computed) == sorted(items)
    assert [type(move) for move in rows.report.fallbacks] == [FellBack]
    assert engine.devices == [CPU]
    assert engine.run([5]).report.fallbacks == (), "an old move is not a new one"


def test_a_report_holds_the_moves_of_its_own_run_on_several_devices() -> None:
    """The first device moves after the second: it comes first in the engine, but is the news."""
    moved = threading.Event()

    class Small(FakeEncoder):
        def to(self, device: Device) -> None:
            super().to(device)
            moved.set()

    class Waiting(FakeEncoder):
        def forward(self, features: Any) -> Pending:
            assert moved.wait(20), "the small device took no batch"
            return super().forward(features)

    second = Device(kind="cuda", index=1, name="another", reason="the test says so")
    first = Waiting()
    engine = make([first, Small({"cuda:1": 60}, device=second)], budget=100, fallback=[CPU])
    with pytest.warns(FallbackWarning, match="not cuda:1"):
        report = engine.run([90] * 64).report
    assert [move.source for move in report.fallbacks] == ["cuda:1"]
    first.capacity["cuda:0"] = 60
    with pytest.warns(FallbackWarning, match="not cuda:0"):
        report = engine.run([90]).report
    assert [move.source for move in report.fallbacks] == ["cuda:0"]


def test_nowhere_left_names_the_item_and_the_numbers() -> None:
    engine = make(FakeEncoder({"cuda:0": 60}))
    with pytest.raises(
        EngineOutOfMemoryError, match=r"item 2 \(90 tokens\) does not fit on cuda:0"
    ):
        engine.run([5, 5, 90])


def test_another_error_is_not_taken_for_memory() -> None:
    class Broken(FakeEncoder):
        def forward(self, features: Any) -> Pending:
            raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        make(Broken(), fallback=[CPU]).run(lengths(100))


def test_a_bad_item_far_behind_is_named_by_its_position() -> None:
    items: list[Any] = lengths(3000)
    items[2500] = "x"
    with pytest.raises(TypeError, match="item 2500 is str"):
        make(FakeEncoder()).run(items)


def test_a_failed_call_leaves_the_engine_usable_and_no_thread() -> None:
    engine = make(FakeEncoder())
    before = threading.active_count()
    bad: list[Any] = [*lengths(3000), None]
    with pytest.raises(TypeError):
        engine.run(bad)
    assert threading.active_count() == before
    assert np.array_equal(engine.run([1, 2]).vectors, expected([1, 2]))


def test_several_devices_share_the_work() -> None:
    second = Device(kind="cuda", index=1, name="another", reason="the test says so")
    encoders = [FakeEncoder(delay=0.001), FakeEncoder(device=second, delay=0.001)]
    items = lengths(3000)
    rows = make(encoders).run(items)
    assert np.array_equal(rows.vectors, expected(items))
    assert set(rows.report.batches) == {"cuda:0", "cuda:1"}
    assert sorted(encoders[0].computed + encoders[1].computed) == sorted(items)


def test_a_small_device_beside_a_large_one() -> None:
    second = Device(kind="cuda", index=1, name="another", reason="the test says so")
    small = FakeEncoder({"cuda:1": 300}, device=second, delay=0.001)
    items = lengths(3000)
    rows = make([FakeEncoder(delay=0.001), small], budget=2000).run(items)
    assert np.array_equal(rows.vectors, expected(items))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_device_that_fails_ends_the_work_of_all(devices: int) -> None:
    class Broken(FakeEncoder):
        def forward(self, features: Any) -> Pending:
            raise RuntimeError("device-side assert triggered")

    others = [FakeEncoder(delay=0.01) for _ in range(devices - 1)]
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="device-side assert") as held:
        make([Broken(), *others]).run(lengths(20_000))
    assert threading.active_count() == before, held
    assert all(len(other.computed) < 10_000 for other in others)


def test_an_interrupt_ends_the_work_of_all_devices(press_ctrl_c: Callable[[], None]) -> None:
    class Interrupting(FakeEncoder):
        def forward(self, features: Any) -> Pending:
            if len(self.forwards) == 5:
                press_ctrl_c()
            return super().forward(features)

    encoders = [Interrupting(device=CPU, delay=0.005), FakeEncoder(device=CPU, delay=0.005)]
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        make(encoders).run(lengths(20_000))
    assert threading.active_count() == before
    assert sum(len(each.computed) for each in encoders) < 10_000


def test_callers_on_many_threads_take_turns_and_never_mix() -> None:
    engine = make(FakeEncoder())  # its forward asserts that it is alone
    calls = [lengths(20 + number) for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda items: engine.run(items).vectors, calls))
    for items, vectors in zip(calls, results, strict=True):
        assert np.array_equal(vectors, expected(items))


def test_rows_go_into_the_callers_buffer() -> None:
    out = np.zeros((3, 3), np.float32)
    rows = make(FakeEncoder()).run([1, 2, 3], out=out)
    assert rows.vectors is out
    assert np.array_equal(out, expected([1, 2, 3]))
    with pytest.raises(ValueError, match=r"float32 of shape \(2, 3\)"):
        make(FakeEncoder()).run([1, 2], out=out)


def test_progress_counts_every_item_once() -> None:
    counts: list[int] = []
    make(FakeEncoder({"cuda:0": 300})).run(lengths(2000), progress=counts.append)
    assert sum(counts) == 2000


class Windowed(FakeEncoder):
    """Cuts items into windows of 10 tokens; the vector of an item is the sum of its windows'."""

    def tokenize(self, items: Sequence[int], options: Any, *, start: int = 0) -> Tokenized:
        windows = [[10] * (item // 10) + [item % 10] for item in items]
        owners = np.repeat(np.arange(len(items)), [len(each) for each in windows])
        flat = np.array([size for each in windows for size in each])
        return Tokenized(flat, flat, owners)

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        assert tokens.owners is not None
        merged = np.zeros((int(tokens.owners[-1]) + 1, 3), np.float32)
        np.add.at(merged, tokens.owners, vectors)
        return merged


def test_windows_are_folded_back_into_items() -> None:
    items = lengths(2500)
    counts: list[int] = []
    rows = make(Windowed({"cuda:0": 500})).run(items, progress=counts.append)
    assert np.array_equal(rows.vectors, expected(items))
    assert sum(counts) == 2500


def test_close_frees_every_encoder() -> None:
    encoders = [FakeEncoder(), FakeEncoder(device=GPU)]
    make(encoders).close()
    assert all(encoder.closed for encoder in encoders)


def test_an_engine_without_encoders() -> None:
    with pytest.raises(ValueError, match="at least one encoder"):
        make([])


LATE = """
import threading
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.engine import Engine
from tests.unit_tests.fake_encoder import CPU, GPU, FakeEncoder, expected

def work():
    threading.main_thread().join()  # no executor takes work from here on
    items = [n % 90 + 1 for n in range(3000)]
    for encoders in ([FakeEncoder()], [FakeEncoder(), FakeEncoder(device=CPU)]):
        rows = Engine(encoders, budgets=Budgets(object(), fixed=1000)).run(items)
        print((rows.vectors == expected(items)).all())

threading.Thread(target=work).start()
"""


def test_a_thread_that_outlives_the_main_one_computes() -> None:
    command = [sys.executable, "-c", LATE]
    done = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)  # noqa: S603 - our own program
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")
