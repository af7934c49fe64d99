"""Buckets, and what is recorded for them: everything but the card itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from langchain_gpu.engine.encoder import Tokenized, Vectors
from langchain_gpu.engine.runtimes import attention
from langchain_gpu.engine.runtimes.buckets import TOKENS, Bucket, Features, Filled, bucket_for, fill
from langchain_gpu.engine.runtimes.graphs import ASKED, MOST, Graphs, Recording, Run
from langchain_gpu.engine.runtimes.packed import PackedBatch
from langchain_gpu.engine.runtimes.torch import TorchEncoder
from langchain_gpu.hardware.devices import Device

Tiny = Callable[[str], str]

CPU = Device(kind="cpu", name="a processor", reason="the test says so", cores=1)
CARD = Device(kind="cuda", index=0, name="a card", reason="the test says so", dtype="bfloat16")


class Memory:
    """What a graph is without a card: the same buffers every time, and one result to overwrite."""

    def __init__(self, run: Run, features: Features) -> None:
        self.run = run
        self.static = {
            name: value.clone() if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        self.rows = run(self.static)

    def replay(self, features: Features) -> torch.Tensor:
        for name, value in features.items():
            if isinstance(value, torch.Tensor):
                self.static[name].copy_(value)  # refuses another shape, as a graph does
        self.rows.copy_(self.run(self.static))
        return self.rows


class Fake:
    """Records into `Memory`; the clock is the test's."""

    def __init__(self, again: float = 1.0, anew: float = 2.0) -> None:
        self.times = [again, anew]
        self.timed = 0
        self.recorded: list[Bucket] = []
        self.error: Exception | None = None
        self.forgotten = 0

    def record(self, run: Run, features: Features) -> Recording:
        if self.error is not None:
            raise self.error
        self.recorded.append(shape(features))
        return Memory(run, features)

    def seconds(self, call: Callable[[], object], times: int) -> float:
        for _ in range(times):
            call()
        self.timed += 1
        return self.times[(self.timed - 1) % 2]

    def forget(self) -> None:
        self.forgotten += 1


def shape(features: Features) -> Bucket:
    return Bucket(
        features["input_ids"].shape[1],
        len(features["cu_seq_lens_q"]) - 1,
        features["max_length_q"],
    )


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def made(path: str, recorder: Fake) -> TorchEncoder:
    """An encoder as it is on a card, but for the card."""
    model = TorchEncoder(Path(path), CPU, dtype="float32", options={"attention": "packed"})
    model._graphs = Graphs(model._compute_packed, recorder, 0)
    return model


def batch_of(model: TorchEncoder, lengths: list[int], seed: int = 0) -> Any:
    tokens = rows_of(model, lengths, seed)
    return model.prepare(tokens, np.arange(len(lengths)))


def rows_of(model: TorchEncoder, lengths: list[int], seed: int = 0) -> Tokenized:
    random = np.random.default_rng(seed)
    return model.from_ids([random.integers(5, 90, length).tolist() for length in lengths])


def eager(model: TorchEncoder, lengths: list[int], seed: int = 0) -> Vectors:
    graphs, model._graphs = model._graphs, None
    try:
        return model.forward(batch_of(model, lengths, seed))()
    finally:
        model._graphs = graphs


def plain(lengths: list[int], **more: Any) -> PackedBatch:
    total = sum(lengths)
    features: Features = {
        "input_ids": torch.arange(total)[None] + 10,
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None] + 2,
        "seq_idx": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None],
        "cu_seq_lens_q": torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        "max_length_q": max(lengths),
    } | more
    return PackedBatch(features, len(lengths), total, max(lengths), np.empty(0, np.int64))


class TestBuckets:
    def test_sizes_grow_in_steps_of_at_most_half(self) -> None:
        assert list(TOKENS) == sorted(set(TOKENS))
        assert (TOKENS[0], TOKENS[-1]) == (128 + 64, 24576 + 64)
        assert all(after <= before * 1.5 for before, after in pairwise(TOKENS))

    def test_a_full_budget_wastes_little(self) -> None:
        bucket = bucket_for(plain([128] * 128))
        assert bucket is not None
        assert bucket.tokens == 16384 + 64

    @given(st.lists(st.integers(1, 512), min_size=1, max_size=60))
    def test_a_batch_is_filled_up_to_the_size_of_its_bucket(self, lengths: list[int]) -> None:
        batch = plain(lengths)
        bucket = bucket_for(batch)
        if bucket is None:
            assert batch.tokens > TOKENS[-1]
            return
        filled = fill(batch, bucket, pad_id=3)
        features = filled.features
        assert shape(features) == bucket
        offsets = features["cu_seq_lens_q"]
        assert offsets.dtype == torch.int32
        assert (offsets[: len(lengths) + 1] == batch.features["cu_seq_lens_q"]).all()
        assert offsets[-1] == bucket.tokens  # every token belongs to a row
        assert offsets[:-1].max() < bucket.tokens  # the first token of every row is there
        sizes = offsets.diff()
        assert (sizes >= 0).all()
        assert sizes.max() <= min(bucket.longest, batch.longest)
        wanted = torch.repeat_interleave(torch.arange(bucket.rows), sizes)
        assert (features["seq_idx"][0] == wanted).all()
        # no position beyond the batch's own: a model's table ends somewhere
        assert features["position_ids"].max() == batch.longest - 1 + 2
        assert (features["input_ids"][0, batch.tokens :] == 3).all()

    @given(st.lists(st.integers(1, 512), min_size=1, max_size=20))
    def test_what_is_cut_off_again_is_the_batch(self, lengths: list[int]) -> None:
        batch = plain(lengths)
        bucket = bucket_for(batch)
        assert bucket is not None
        own = fill(batch, bucket, 0).batch
        assert own.features.keys() == batch.features.keys()
        for name, value in batch.features.items():
            assert torch.equal(torch.as_tensor(own.features[name]), torch.as_tensor(value))

    def test_what_has_no_bucket(self) -> None:
        assert bucket_for(plain([512] * 60)) is None
        assert bucket_for(plain([5], prompt_length=2)) is None

    def test_alike_batches_share_one(self) -> None:
        assert len({bucket_for(plain([size] * 40)) for size in range(100, 103)}) == 1


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "qwen3-last-token"])
def test_recorded_batches_give_the_same_rows(tiny: Tiny, name: str) -> None:
    recorder = Fake()
    model = made(tiny(name), recorder)
    for seed in range(ASKED + 3):
        lengths = [30 - seed, 17, 9 + seed, 1]  # other batches, the same bucket
        rows = model.forward(batch_of(model, lengths, seed))()
        assert rows.shape == (4, model.dimension)
        assert np.allclose(rows, eager(model, lengths, seed), atol=1e-5)
        assert len(recorder.recorded) == (1 if seed + 1 >= ASKED else 0)
    assert model.graphs == "on: 1 shapes recorded, 0 not faster that way"


def test_a_row_without_a_token_stays_zero(tiny: Tiny) -> None:
    model = made(tiny("xlm-roberta"), Fake())
    tokens = rows_of(model, [4, 3])
    lengths = np.array([4, 3, 0])
    offsets = np.append(tokens.payload.offsets, 7)
    tokens = Tokenized(lengths, type(tokens.payload)(tokens.payload.ids, offsets, ""))
    for _ in range(ASKED + 1):
        rows = model.forward(model.prepare(tokens, np.arange(3)))()
        assert rows[:2].any(axis=1).all()
        assert not rows[2].any()


def test_what_is_not_faster_is_dropped_and_not_filled_up_again(tiny: Tiny) -> None:
    recorder = Fake(again=2.0, anew=2.0)
    model = made(tiny("bert"), recorder)
    for _ in range(ASKED + 2):
        rows = model.forward(batch_of(model, [20, 10]))()
        assert np.allclose(rows, eager(model, [20, 10]), atol=1e-5)
    assert len(recorder.recorded) == 1
    assert isinstance(batch_of(model, [20, 10]), PackedBatch)
    assert isinstance(batch_of(model, [20] * 20), Filled), "another bucket has its own chance"
    assert model.graphs == "on: 0 shapes recorded, 1 not faster that way"


@pytest.mark.parametrize(("first", "forgotten"), [(3.0, 1), (1.0, 0)])
def test_what_no_recording_holds_any_more_is_not_shared_with_the_next(
    tiny: Tiny, first: float, forgotten: int
) -> None:
    """A pool of memory without a graph takes no new one."""
    recorder = Fake(again=first)
    model = made(tiny("bert"), recorder)
    for lengths in ([20, 10], [20] * 20):
        for _ in range(ASKED):
            model.forward(batch_of(model, lengths))()
        assert recorder.forgotten == forgotten
        recorder.times = [1.0, 2.0]


@pytest.mark.parametrize(
    "name", ["bert", "bert-without-prompt", "roberta-cls", "modernbert", "qwen3-last-token"]
)
def test_nothing_that_is_recorded_waits_for_the_card(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Tensors without contents fail whoever asks for a value; the kernel is torch's own."""
    model = TorchEncoder(Path(tiny(name)), CPU, dtype="bfloat16", options={"attention": "packed"})
    filled = Graphs(model._compute_packed, Fake(), 0).prepare(
        model._pack(rows_of(model, [30, 17, 9, 1]), np.arange(4))
    )
    assert isinstance(filled, Filled)
    monkeypatch.setattr(attention, "kernel_for", lambda *_: attention.flash_kernel())
    model._model.to("meta")
    monkeypatch.setattr(Device, "torch_name", "meta")
    static = {
        key: value.to("meta") if isinstance(value, torch.Tensor) else value
        for key, value in filled.features.items()
    }
    with torch.inference_mode(), OnTheCard() as seen:
        rows = model._compute_packed(static)
    assert rows.shape == (filled.bucket.rows, model.dimension)
    assert "torch_attn._varlen_attn.default" in seen.calls


class OnTheCard(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Refuses tensors on the host: recorded, a copy of one would repeat what it held then."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(str(func))
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, made)):
            assert not isinstance(value, torch.Tensor) or value.is_meta, f"{func} on the host"
        return made


def test_a_batch_that_was_filled_before_its_bucket_was_dropped(tiny: Tiny) -> None:
    model = made(tiny("bert"), Fake(again=3.0))
    waiting = [batch_of(model, [20, 10], seed) for seed in range(ASKED + 2)]
    for seed, batch in enumerate(waiting):
        assert isinstance(batch, Filled)
        assert np.allclose(model.forward(batch)(), eager(model, [20, 10], seed), atol=1e-5)


def test_recording_that_fails_is_said_once_and_the_rest_goes_on(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Fake()
    recorder.error = RuntimeError("operation not permitted when stream is capturing\nmore")
    model = made(tiny("bert"), recorder)
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * ASKED):
            rows = model.forward(batch_of(model, [20, 10]))()
            assert np.allclose(rows, eager(model, [20, 10]), atol=1e-5)
    assert [each.message for each in caplog.records if "CUDA graphs" in each.message] == [
        "CUDA graphs are off: operation not permitted when stream is capturing"
    ]
    assert model.graphs == "off: operation not permitted when stream is capturing"
    assert isinstance(batch_of(model, [20, 10]), PackedBatch)


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def broken_off(first: Exception) -> Exception:
    """What comes of an error while torch records: the end of the recording fails, too."""
    last = torch.AcceleratorError(
        "CUDA error: operation failed due to a previous error during capture"
    )
    last.__context__ = first
    return last


def test_what_broke_a_recording_off_is_said(tiny: Tiny) -> None:
    recorder = Fake()
    recorder.error = broken_off(RuntimeError("operation not permitted when stream is capturing"))
    model = made(tiny("bert"), recorder)
    for _ in range(ASKED):
        model.forward(batch_of(model, [20, 10]))()
    assert model.graphs == "off: operation not permitted when stream is capturing"


class TestMemoryThatRunsOut:
    """What is recorded keeps its memory, which a batch needs more; but only now."""

    @pytest.fixture
    def recorder(self) -> Fake:
        return Fake()

    @pytest.fixture
    def model(self, tiny: Tiny, recorder: Fake) -> TorchEncoder:
        model = made(tiny("bert"), recorder)
        self.ask(model, ASKED)
        assert recorded(model)
        return model

    def ask(self, model: TorchEncoder, times: int) -> None:
        for seed in range(times):
            rows = model.forward(batch_of(model, [20, 10], seed))()
            assert np.allclose(rows, eager(model, [20, 10], seed), atol=1e-5)

    @pytest.mark.parametrize("ended", [True, False])
    def test_while_a_bucket_is_recorded(
        self, model: TorchEncoder, recorder: Fake, *, ended: bool
    ) -> None:
        recorder.error = FULL if ended else broken_off(FULL)
        for _ in range(ASKED):
            rows = model.forward(batch_of(model, [20] * 20))()
        assert np.allclose(rows, eager(model, [20] * 20), atol=1e-5)
        assert not recorded(model)
        assert recorder.forgotten == 1
        recorder.error = None
        self.ask(model, 2 * ASKED)
        assert recorded(model)

    def test_while_a_batch_is_computed(
        self, model: TorchEncoder, recorder: Fake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise FULL

        with monkeypatch.context() as patch:
            patch.setattr(model, "_compute", full)
            for _ in range(3):  # the batch, and smaller ones: none keeps recordings away for longer
                with pytest.raises(torch.OutOfMemoryError):
                    model.forward(plain([5]))
        assert not recorded(model)
        assert recorder.forgotten == 1
        self.ask(model, 2 * ASKED - 1)
        assert not recorded(model), "not as soon as the first time"
        self.ask(model, 1)
        assert recorded(model)


def recorded(model: TorchEncoder) -> int:
    assert model._graphs is not None
    assert not model._graphs.failure
    return len(model._graphs.kept)


def test_no_more_than_so_many_are_recorded() -> None:
    def run(features: Features) -> torch.Tensor:
        return torch.zeros(len(features["cu_seq_lens_q"]) - 1, 3)

    recorder = Fake()
    graphs = Graphs(run, recorder, 0)
    sizes = [[8 + step % 8] * (4 << step % 11) for step in range(88)]
    for lengths in sizes:
        for _ in range(ASKED):
            batch = graphs.prepare(plain(lengths))
            if isinstance(batch, Filled):
                graphs(batch)
    assert len(recorder.recorded) == len(graphs.kept) <= MOST


class TestWhereTheyAreOff:
    def test_on_a_cpu(self, tiny: Tiny) -> None:
        model = TorchEncoder(Path(tiny("bert")), CPU, options={"attention": "packed"})
        assert model.graphs == "off: they are for packed batches on NVIDIA cards"

    def test_graphs_can_be_turned_off(self, tiny: Tiny) -> None:
        model = TorchEncoder(Path(tiny("bert")), CPU, options={"cuda_graphs": False})
        assert model.graphs == "off: asked for"

    def test_wide_models_are_not_recorded(self, tiny: Tiny) -> None:
        model = TorchEncoder(Path(tiny("bert")), CPU, options={"attention": "packed"})
        model._device = CARD
        assert model._no_graphs() == ""
        model._model[0].model.config.hidden_size = 768
        assert model._no_graphs() == "off: the model is 768 wide, and they pay up to 512"
