"""Texts that cannot be embedded: listed, left out, and in nobody's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.budgets import Budgets
from langchain_gpu.engine.encoder import Tokenized
from langchain_gpu.engine.engine import Engine
from langchain_gpu.engine.report import Rows
from langchain_gpu.engine.skipping import run_skipping
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.events import BatchDone, Event
from langchain_gpu.servers.errors import RefusedError
from tests.unit_tests.fake_encoder import FakeEncoder, expected
from tests.unit_tests.scripted_server import (
    Asked,
    Reply,
    Scripted,
    embeddings,
    openai,
    serving,
    vectors_of,
)

Tiny = Callable[[str], str]
TEXTS = [f"text {number}" for number in range(300)]


def broken(rows: Rows) -> list[int]:
    found: list[int] = np.flatnonzero(np.isnan(rows.vectors).all(axis=1)).tolist()
    return found


def skipped(rows: Rows) -> list[int]:
    return [each.index for each in rows.report.skipped]


class Texts(FakeEncoder):
    """A text has as many tokens as letters; of one with more than 100, 30 are read."""

    def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
        sizes = np.array([len(text) for text in items], np.int64)
        cut = np.where(sizes > 100, 30, sizes)
        return Tokenized(cut, cut, truncated=np.flatnonzero(sizes > 100))


class TestHere:
    @pytest.fixture
    def events(self) -> list[Event]:
        return []

    @pytest.fixture
    def strict(self, tiny: Tiny, events: list[Event]) -> GPUEmbeddings:
        return GPUEmbeddings(
            model=tiny("bert"),
            backend="torch",
            device="cpu",
            dtype="float32",
            on_long="error",
            on_event=events.append,
        )

    def test_texts_that_are_too_long(self, strict: GPUEmbeddings, events: list[Event]) -> None:
        texts: list[Any] = [f"one {number}" for number in range(3000)]
        bad = [1100, 1500, 1501, 2998]
        for index in bad:
            texts[index] = "two " * 100
        texts[40] = None
        good = [index for index in range(3000) if index not in {*bad, 40}]
        rows = strict.embed_with_report(texts, on_error="skip")
        computed = sum(each.items for each in events if isinstance(each, BatchDone))
        assert computed == len(good) + 1, "no row twice; one text to see that others go through"
        assert broken(rows) == skipped(rows) == sorted([*bad, 40])
        reason = rows.report.skipped[1].reason
        assert reason.startswith("is longer than the model's window of 32 tokens")
        assert np.allclose(
            rows.vectors[good], strict.embed_to_array([texts[index] for index in good]), atol=1e-5
        )

    def test_a_stream_goes_on(self, strict: GPUEmbeddings) -> None:
        texts = ["one"] * 25 + ["two " * 100] + ["one"] * 24
        parts = list(strict.stream(texts, chunk=20, on_error="skip"))
        assert [len(part.vectors) for part in parts] == [20, 20, 10]
        assert [skipped(part) for part in parts] == [[], [5], []]

    def test_nothing_but_bad_texts(self, strict: GPUEmbeddings) -> None:
        rows = strict.embed_with_report(["two " * 100] * 3, on_error="skip")
        assert broken(rows) == skipped(rows) == [0, 1, 2]

    def test_the_bar_reaches_its_end(
        self, strict: GPUEmbeddings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = strict.model_copy(update={"show_progress": True})
        shown.embed_with_report(["one"] * 39 + ["two " * 100], on_error="skip")
        assert "40/40" in capsys.readouterr().err

    def test_a_text_that_does_not_fit_into_memory(self) -> None:
        sizes = np.random.default_rng(0).integers(1, 50, 400).tolist()
        sizes[17], sizes[200], sizes[300] = 90, 95, 600
        encoder = Texts({"cuda:0": 60})
        engine: Engine[str] = Engine([encoder], budgets=Budgets(object(), fixed=1000))
        counts: list[int] = []
        rows = run_skipping(
            engine,
            encoder,
            ["x" * size for size in sizes],
            EmbedOptions(),
            max_items=8,
            progress=counts.append,
        )
        good = [index for index in range(400) if index not in {17, 200}]
        assert broken(rows) == skipped(rows) == [17, 200]
        assert rows.report.skipped[0].reason.startswith("(90 tokens) does not fit on cuda:0")
        wanted = [30 if index == 300 else sizes[index] for index in good]
        assert np.array_equal(rows.vectors[good], expected(wanted))
        assert sorted(encoder.computed) == sorted([*wanted, 1]), "no row twice"
        assert rows.report.items == 400
        assert rows.report.tokens == sum(wanted)
        assert rows.report.truncated == (300,)
        assert sum(counts) == 400

    def test_a_setting_at_fault_is_not_taken_for_bad_texts(self) -> None:
        class Wrong(Texts):
            def tokenize(self, items: Sequence[Any], options: Any, *, start: int = 0) -> Tokenized:
                raise ValueError("on_long='mean' needs the model's tokenizer")

        encoder = Wrong()
        engine: Engine[str] = Engine([encoder], budgets=Budgets(object(), fixed=1000))
        with pytest.raises(ValueError, match="on_long='mean' needs"):
            run_skipping(engine, encoder, ["one", "two"], EmbedOptions())

    def test_an_error_about_no_text_ends_the_work(self) -> None:
        class Broken(Texts):
            def forward(self, features: Any) -> Any:
                raise RuntimeError("device-side assert triggered")

        encoder = Broken()
        engine: Engine[str] = Engine([encoder], budgets=Budgets(object(), fixed=1000))
        with pytest.raises(RuntimeError, match="device-side assert"):
            run_skipping(engine, encoder, ["one", "two"], EmbedOptions())


class TestServer:
    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
        with serving(monkeypatch, openai) as running:
            yield running

    @pytest.fixture
    def remote(self, server: Scripted) -> Iterator[GPUEmbeddings]:
        with GPUEmbeddings(
            model="m", base_url="http://far.example", backend="openai", on_long="error"
        ) as model:
            assert model.dimension == 3
            yield model

    @staticmethod
    def refuse(server: Scripted) -> None:
        def script(asked: Asked) -> Reply:
            given = asked.body["input"] if asked.body else []
            if any("poison" in text for text in given):
                return Reply(status=400, body={"error": "I will not read that"})
            if any("long" in text for text in given):
                return Reply(status=400, body={"error": "maximum context length is 256 tokens"})
            return openai(asked)

        server.script = script

    def test_texts_it_refuses(self, server: Scripted, remote: GPUEmbeddings) -> None:
        self.refuse(server)
        texts = list(TEXTS)
        for index in (3, 4, 150, 299):
            texts[index] = f"poison {index}"
        texts[77] = "long"
        limit = remote._load().encoder.rules.max_items
        before = len(server.of("/v1/embeddings"))
        rows = remote.embed_with_report(texts, on_error="skip")
        sent = [body["input"] for body in server.of("/v1/embeddings")[before:]]
        assert broken(rows) == skipped(rows) == [3, 4, 77, 150, 299]
        reasons = {each.index: each.reason for each in rows.report.skipped}
        assert "I will not read that" in reasons[3]
        assert reasons[3].startswith("was refused: ")
        assert "longer than the model's window" in reasons[77]
        good = [index for index in range(300) if index not in reasons]
        assert np.array_equal(rows.vectors[good], vectors_of([texts[index] for index in good]))
        answered = [
            text
            for each in sent
            if not {"poison", "long"} & set(" ".join(each).split())
            for text in each
        ]
        assert len(answered) == len(set(answered)), "no row twice"
        assert len(sent) <= 10 + 12 * 5
        assert remote._load().encoder.rules.max_items == limit, "their number was not the reason"

    def test_nan_of_a_server(self, server: Scripted, remote: GPUEmbeddings) -> None:
        def script(asked: Asked) -> Reply:
            if asked.path != "/v1/embeddings":
                return openai(asked)
            rows = vectors_of(asked.body["input"])
            rows[["poison" in text for text in asked.body["input"]]] = np.nan
            return embeddings(asked.body, rows.tolist())

        server.script = script
        rows = remote.embed_with_report(["one", "poison", "two"], on_error="skip")
        assert broken(rows) == skipped(rows) == [1]
        assert rows.report.skipped[0].reason == "the model returned NaN or infinity"

    @pytest.mark.parametrize("status", [401, 422])
    def test_a_server_that_refuses_everything(
        self, server: Scripted, remote: GPUEmbeddings, status: int
    ) -> None:
        server.script = lambda _: Reply(status=status, body={"error": "not like that"})
        with pytest.raises(RefusedError, match="not like that"):
            remote.embed_with_report(TEXTS[:9], on_error="skip")
