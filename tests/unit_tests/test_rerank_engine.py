"""Pairs on a card that is too small, on one that is not there, and behind a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langchain_gpu import GPURerank
from langchain_gpu.engine import backends, budgets, embedder
from langchain_gpu.engine.encoder import Pending
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.engine.runtimes.tasks import SCORE
from langchain_gpu.engine.runtimes.torch import TorchEncoder
from langchain_gpu.engine.tasks.activations import sigmoid
from langchain_gpu.events import BatchDone, BudgetChanged, FallbackWarning, FellBack
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from tests.unit_tests.fake_encoder import GPU
from tests.unit_tests.scripted_server import Asked, Reply, Scripted, serving
from tests.unit_tests.tiny_models import WORDS

ROWS = np.random.default_rng(0)
QUERY = "is the gpu fast"
TEXTS = [" ".join(ROWS.choice(WORDS, size)) for size in ROWS.integers(0, 24, 300)]


class SmallCard(TorchEncoder):
    """A real reranker on a card that is none: batches beyond `capacity` do not fit there."""

    def __init__(self, path: str, capacity: int) -> None:
        self.capacity = capacity
        self.failures = 0
        self.finished: list[int] = []
        super().__init__(Path(path), select_device("cpu"), dtype="float32", task=SCORE)
        self.place, self.finished = GPU, []

    @property
    def device(self) -> Device:
        return self.place

    def forward(self, features: Any) -> Pending:
        if self.place.kind == "cuda" and features["input_ids"].numel() > self.capacity:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.finished.append(len(features["input_ids"]))
        return super().forward(features)

    def to(self, device: Device) -> None:
        if device.kind == "cpu":
            super().to(device)
        self.place = device

    def peak_bytes(self, tokens: int) -> int | None:
        return None


@pytest.fixture
def path(tiny_reranker: Callable[[str], str]) -> str:
    return tiny_reranker("bert-identity")


@pytest.fixture
def wanted(path: str) -> Any:
    return GPURerank(model=path, device="cpu", backend="torch", dtype="float32").score(
        [(QUERY, text) for text in TEXTS]
    )


@pytest.fixture
def small(path: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], SmallCard]:
    """Have the next reranker find a card of this capacity."""

    def build(capacity: int) -> SmallCard:
        encoder = SmallCard(path, capacity)
        monkeypatch.setattr(embedder, "_devices", lambda *_: [GPU])
        monkeypatch.setattr(backends, "create", lambda *_: (encoder, "torch: the test says so"))
        return encoder

    monkeypatch.setattr(budgets, "_learned", {})
    return build


def test_a_batch_that_does_not_fit_is_split(
    small: Callable[[int], SmallCard], path: str, wanted: Any
) -> None:
    card, events = small(400), list[Any]()
    reranker = GPURerank(model=path, max_batch_tokens=4096, on_event=events.append)
    scores = reranker.score([(QUERY, text) for text in TEXTS])
    assert scores == pytest.approx(wanted, abs=1e-5)
    assert 0 < card.failures < 10, "what was learned is remembered"
    assert sum(card.finished) == len(TEXTS), "finished rows are never computed again"
    assert any(isinstance(event, BudgetChanged) for event in events)
    assert not any(isinstance(event, FellBack) for event in events)
    assert {event.device for event in events if isinstance(event, BatchDone)} == {str(GPU)}


async def test_one_pair_that_does_not_fit_goes_to_the_cpu(
    small: Callable[[int], SmallCard], path: str, wanted: Any
) -> None:
    card, events = small(20), list[Any]()
    reranker = GPURerank(model=path, top_n=None, on_event=events.append)
    with pytest.warns(FallbackWarning, match="reranking") as caught:
        scores = reranker.score([(QUERY, text) for text in TEXTS])
    assert len(caught) == 1
    assert scores == pytest.approx(wanted, abs=1e-5)
    assert [event.target for event in events if isinstance(event, FellBack)] == ["cpu"]
    assert reranker.devices[0].kind == "cpu"
    assert sum(card.finished) == len(TEXTS)
    assert await reranker.ascore([(QUERY, TEXTS[0])]) == pytest.approx(wanted[:1], abs=1e-5)


def test_or_is_an_error_that_names_the_pair(small: Callable[[int], SmallCard], path: str) -> None:
    small(20)
    reranker = GPURerank(model=path, fallback="error")
    with pytest.raises(EngineOutOfMemoryError, match="item 1"):
        reranker.score([("a", "b"), (QUERY, "text " * 15)])


def test_a_card_that_the_model_fills_is_left_when_it_is_loaded(
    small: Callable[[int], SmallCard], path: str, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = small(10**9)

    def probe(tokens: int) -> int | None:
        if card.place.kind == "cpu":
            return None
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(card, "peak_bytes", probe)
    with pytest.warns(FallbackWarning, match="reranking runs on cpu, not cuda:0: not even one"):
        scores = GPURerank(model=path).score([(QUERY, text) for text in TEXTS])
    assert scores == pytest.approx(wanted, abs=1e-5)


def test_a_device_that_is_not_here(path: str, wanted: Any) -> None:
    with pytest.warns(FallbackWarning, match="reranking"):
        found = GPURerank(model=path, device="cuda:7", backend="torch", dtype="float32").score(
            [(QUERY, text) for text in TEXTS]
        )
    assert found == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(DeviceNotFoundError):
        GPURerank(model=path, device="cuda:7", fallback="error").score([("a", "b")])


def test_a_model_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no safetensors files found for 'no/where'"):
        GPURerank(model="no/where").score([("a", "b")])


def test_pairs_of_all_queries_share_batches(path: str) -> None:
    events: list[Any] = []
    reranker = GPURerank(
        model=path, device="cpu", backend="torch", max_batch_tokens=256, on_event=events.append
    )
    reranker.score_batch([f"the {word}" for word in WORDS], [TEXTS[:10]] * len(WORDS))
    done = [event for event in events if isinstance(event, BatchDone)]
    assert sum(event.items for event in done) == 10 * len(WORDS)
    assert len(done) < len(WORDS)
    padded, tokens = (sum(getattr(event, n) for event in done) for n in ("padded_tokens", "tokens"))
    assert padded < 1.2 * tokens, "sorted over all of them"


def answer(asked: Asked) -> Reply:
    if asked.path != "/v1/rerank" or "documents" not in asked.body:
        return Reply(status=404)
    query, documents = asked.body["query"], asked.body["documents"]
    rows = [
        {"index": at, "relevance_score": remote_score(query, text)}
        for at, text in enumerate(documents)
    ]
    return Reply({"results": rows[::-1]})


def remote_score(query: str, text: str) -> float:
    return (len(query) + sum(text.encode()) % 97) / 50 - 1


class TestServer:
    """A reranker that somebody else runs."""

    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
        with serving(monkeypatch, answer) as running:
            yield running

    @pytest.fixture
    def remote(self, server: Scripted) -> Iterator[GPURerank]:
        with GPURerank(model="m", base_url="http://far.example", top_n=None) as reranker:
            yield reranker

    async def test_every_call_gives_the_scores_of_the_server(self, remote: GPURerank) -> None:
        wanted = np.array([remote_score(QUERY, text) for text in TEXTS], np.float32)
        order = np.argsort(-wanted, kind="stable").tolist()
        assert [place.index for place in remote.rerank(QUERY, TEXTS)] == order
        assert [place.index for place in await remote.arerank(QUERY, TEXTS)] == order
        queries = ["a", "bb", "a", "ccc"]
        found = remote.score_batch(queries, [TEXTS[:3], [], TEXTS[3:9], TEXTS[:1]])
        assert [len(each) for each in found] == [3, 0, 6, 1]
        assert found[2] == pytest.approx([remote_score("a", text) for text in TEXTS[3:9]])
        assert remote.devices[0].kind == "remote"
        assert "far.example" in remote.backend_reason

    def test_an_activation_is_for_what_comes_back(self, remote: GPURerank) -> None:
        wanted = remote.score([(QUERY, text) for text in TEXTS])
        made = remote.model_copy(update={"activation": "sigmoid"})
        assert made.score([(QUERY, text) for text in TEXTS]) == pytest.approx(sigmoid(wanted))

    @pytest.mark.parametrize(
        "setting", [{"max_length": 99}, {"instruction": "be kind"}, {"on_long": "window"}]
    )
    def test_what_a_server_cannot_be_told(self, remote: GPURerank, setting: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"in its own way: leave out {next(iter(setting))}"):
            remote.model_copy(update=setting).score([("a", "b")])

    def test_a_back_end_is_for_here(self) -> None:
        reranker = GPURerank(model="m", base_url="http://far.example", backend="torch")
        with pytest.raises(ValueError, match="leave it out with base_url"):
            reranker.score([("a", "b")])


def test_sigmoid_overflows_nowhere() -> None:
    found = sigmoid(np.array([-1e4, -1.0, 0.0, 1.0, 1e4], np.float32))
    assert found == pytest.approx([0, 0.26894, 0.5, 0.73106, 1], abs=1e-5)
    assert found.dtype == np.float32
