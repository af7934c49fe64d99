"""Servers that speak OpenAI's form and refuse, fail, or answer what cannot be."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.embedder import Embedder
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.engine.report import Rows
from langchain_gpu.engine.skipping import run_skipping
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTooLongError
from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers.errors import BadAnswerError, RefusedError, ServerError
from tests.unit_tests.remote_openai import (
    PLAIN,
    TEXTS,
    Loads,
    instead,
    openai_embedders,
    openai_server,
    refusal,
    run,
)
from tests.unit_tests.scripted_server import (
    Asked,
    Reply,
    Scripted,
    embeddings,
    openai,
    vectors_of,
)

server, loads = openai_server, openai_embedders


class TestWrongAnswers:
    @pytest.mark.parametrize(
        ("data", "match"),
        [
            ([{"embedding": [1, 2, 3]}], "1 vectors for 2 texts"),
            ([{"embedding": [1, 2, 3]}] * 3, "3 vectors for 2 texts"),
            ([{"index": 0, "embedding": [1, 2, 3]}] * 2, "the positions"),
            (
                [{"index": 1, "embedding": [1, 2, 3]}, {"index": 2, "embedding": [1, 2, 3]}],
                "the pos",
            ),
            ([{"index": "0", "embedding": [1, 2, 3]}, {"embedding": [1, 2, 3]}], "the positions"),
            ([{"embedding": [1, 2]}] * 2, r"shape \(2, 2\) instead of \(2, 3\)"),
            ([{"embedding": [1, 2, 3]}, {"embedding": [1, 2]}], "cannot be read"),
            ([{"embedding": [1, 2, None]}] * 2, "NaN or infinity|cannot be read"),
            ([{"embedding": [1, 2, float("nan")]}] * 2, "NaN or infinity for text"),
            ([{"embedding": "no base64!"}] * 2, "cannot be read"),
            ([{"embedding": "AAA="}] * 2, "cannot be read"),
            ([{"embedding": "AACAPw####AAAEAAAEBA"}] * 2, "cannot be read"),
            ([{}] * 2, "cannot be read|shape|NaN"),
            (["a", "b"], "did not return a list of vectors"),
            (None, "did not return a list of vectors"),
        ],
    )
    def test_are_errors(self, server: Scripted, loads: Loads, data: Any, match: str) -> None:
        embedder = loads()
        instead(server, lambda _: Reply({"data": data}))
        with pytest.raises(BadAnswerError, match=match):
            run(embedder, ["a", "b"])

    def test_nan_names_the_text(self, server: Scripted, loads: Loads) -> None:
        embedder = loads(batch_size=10)

        def poisoned(body: Any) -> Reply | None:
            rows = vectors_of(body["input"])
            rows[[text == "poison" for text in body["input"]]] = np.nan
            return embeddings(body, rows.tolist())

        instead(server, poisoned)
        texts = [*TEXTS[:57], "poison", *TEXTS[57:]]
        with pytest.raises(BadAnswerError, match="NaN or infinity for text 57"):
            run(embedder, texts)


class TestBadItems:
    def test_the_one_text_to_blame_is_named(self, server: Scripted, loads: Loads) -> None:
        instead(
            server,
            lambda body: refusal("I will not read that") if "poison" in body["input"] else None,
        )
        embedder = loads(batch_size=64, concurrency=1)
        before = len(server.asked)
        texts = [*TEXTS[:41], "poison", *TEXTS[41:]]
        with pytest.raises(RefusedError, match="text 41 was refused: .*I will not read that"):
            run(embedder, texts)
        assert len(server.asked) - before <= 2 + 12, "found by halving"

    def test_it_is_placed_in_a_stream_and_in_a_buffer(
        self, server: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instead(
            server,
            lambda body: refusal("I will not read that") if "poison" in body["input"] else None,
        )
        monkeypatch.setattr("langchain_gpu.embeddings._STRETCH", 20)
        texts = [*TEXTS[:45], "poison", *TEXTS[45:]]
        with GPUEmbeddings(
            model="m", base_url="http://far.example", backend="openai", precision="float16"
        ) as model:
            with pytest.raises(RefusedError, match="text 5 was refused") as caught:
                list(model.stream(texts, chunk=20))
            assert caught.value.__notes__ == ["in the chunk that starts at text 40 of the stream"]
            with pytest.raises(RefusedError, match="text 5 was refused") as caught:
                model.embed_to_array(texts, out=np.empty((len(texts), 3), np.float16))
            assert caught.value.__notes__ == ["in the part of the texts that starts at text 40"]

    @pytest.mark.parametrize("batch_size", [64, 32])
    def test_a_limit_on_the_number_is_found_and_remembered(
        self, server: Scripted, loads: Loads, batch_size: int
    ) -> None:
        instead(
            server,
            lambda body: refusal("batch size > maximum", 422) if len(body["input"]) > 16 else None,
        )
        embedder = loads(batch_size=batch_size, concurrency=1)
        assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))
        assert embedder.encoder.rules.max_items == 16
        before = len(server.asked)
        run(embedder, TEXTS)
        assert len(server.asked) - before == 7

    def test_a_key_that_is_wrong_is_not_halved(self, server: Scripted, loads: Loads) -> None:
        embedder = loads()
        before = len(server.asked)
        instead(server, lambda _: refusal("who are you?", 401))
        with pytest.raises(RefusedError, match="who are you"):
            run(embedder, TEXTS[:10])
        assert len(server.asked) - before == 1

    @pytest.mark.parametrize(
        ("texts", "error", "match"),
        [
            (["a", 3], TypeError, "text 1 is int, not str"),
            (["a", "b\ud800"], ValueError, "text 1 holds a lone surrogate at character 1"),
        ],
    )
    def test_what_cannot_be_sent(
        self, loads: Loads, texts: Any, error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            run(loads(), texts)

    def test_any_other_text_can(self, loads: Loads) -> None:
        texts = ["", " ", "\x00", "\n", "naïve 漢字 🙂", "\u2028", '"\\']
        assert np.array_equal(run(loads(), texts), vectors_of(texts))


class TestLongTexts:
    LONG = "word " * 300
    TOO_LONG = (
        "This model's maximum context length is 256 tokens. However, your prompt contains 302"
    )

    def refuse_long(self, server: Scripted, *, cuts: bool) -> None:
        def script(body: Any) -> Reply | None:
            long = any(len(text) > 1000 for text in body["input"])
            cut = cuts and body.get("truncate_prompt_tokens") == -1
            return refusal(self.TOO_LONG) if long and not cut else None

        instead(server, script)

    def test_are_cut_and_that_is_told_once(self, server: Scripted, loads: Loads) -> None:
        self.refuse_long(server, cuts=True)
        embedder = loads(batch_size=10)
        texts = [*TEXTS[:30], self.LONG]
        with pytest.warns(
            TruncationWarning, match="cut by far.example .in the request that begins"
        ):
            vectors = run(embedder, texts)
        assert np.array_equal(vectors, vectors_of(texts))
        run(embedder, texts)  # a second warning would be an error here
        told = [body for body in server.of("/v1/embeddings") if "truncate_prompt_tokens" in body]
        assert len(told) == 2, "only the batch with the long text was cut"

    def test_are_refused_by_name(self, server: Scripted, loads: Loads) -> None:
        self.refuse_long(server, cuts=True)
        texts = [*TEXTS[:30], self.LONG]
        with pytest.raises(TextTooLongError, match="text 30 .* or choose on_long='truncate'"):
            run(loads(), texts, EmbedOptions(on_long="error"))

    def test_are_refused_where_the_server_does_not_cut(
        self, server: Scripted, loads: Loads
    ) -> None:
        self.refuse_long(server, cuts=False)
        with pytest.raises(TextTooLongError, match="text 0 .* does not cut it, so split it"):
            run(loads(), [self.LONG, *TEXTS[:30]])

    def test_llama_server_says_so_with_a_500(self, server: Scripted, loads: Loads) -> None:
        words = "input is too large to process. increase the physical batch size"
        embedder = loads()
        instead(server, lambda body: refusal(words, 500) if self.LONG in body["input"] else None)
        with pytest.raises(TextTooLongError, match="text 2"):
            run(embedder, ["a", "b", self.LONG])

    def test_windows_cannot_be_averaged_here(self, loads: Loads) -> None:
        with pytest.raises(ValueError, match="on_long='mean' needs the model's tokenizer"):
            run(loads(), ["a"], EmbedOptions(on_long="mean"))


class TestOutOfMemory:
    """A server whose card is full is asked for less: the engine's ladder, across the network."""

    def test_smaller_batches(self, server: Scripted, loads: Loads) -> None:
        def script(body: Any) -> Reply | None:
            full = len(body["input"]) > 5
            return refusal("CUDA out of memory. Tried to allocate 2 GiB", 500) if full else None

        embedder = loads(batch_size=20, concurrency=3)
        instead(server, script)
        assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))

    def test_one_text_that_does_not_fit(self, server: Scripted, loads: Loads) -> None:
        embedder = loads()
        instead(server, lambda _: refusal("CUDA out of memory.", 500))
        with pytest.raises(EngineOutOfMemoryError, match=r"not fit on far\.example even alone: "):
            run(embedder, ["a"])


class TestAServerThatFails:
    """It answers 500; nobody knows whether that is an item's fault."""

    POISON = "text 41 is poison"

    def fail(self, server: Scripted, *poison: str) -> None:
        instead(server, lambda body: FAILURE if set(body["input"]) & set(poison) else None)

    def test_at_one_text_says_which(self, server: Scripted, loads: Loads) -> None:
        embedder = loads(max_retries=0)
        self.fail(server, self.POISON)
        before = len(server.asked)
        with pytest.raises(ServerError, match="text 41 makes the server fail: .* answered 500: no"):
            run(embedder, [*TEXTS[:41], self.POISON, *TEXTS[41:63]])
        assert len(server.asked) - before <= 2 + 2 * 6, "about two requests per halving"

    def test_at_one_text_is_asked_patiently_first_and_last(
        self, server: Scripted, loads: Loads
    ) -> None:
        """The pauses between attempts are what a user waits for."""
        embedder = loads(max_retries=3)
        self.fail(server, self.POISON)
        before = len(server.asked)
        with pytest.raises(ServerError, match="text 41 makes the server fail"):
            run(embedder, [*TEXTS[:41], self.POISON, *TEXTS[41:63]])
        asked = [body["input"] for body in (each.body for each in server.asked[before:])]
        assert asked[:4] == [asked[0]] * 4
        assert len(asked[0]) == 64
        assert asked[-4:] == [[self.POISON]] * 4
        halves = [texts for texts in asked[4:-4] if self.POISON in texts]
        assert [len(texts) for texts in halves] == [32, 16, 8, 4, 2], "once each"

    def test_at_one_text_is_still_waited_for_where_it_is_busy(
        self, server: Scripted, loads: Loads
    ) -> None:
        embedder = loads(max_retries=1)
        turns = iter(range(1000))

        def script(body: Any) -> Reply | None:
            poisoned = self.POISON in body["input"]
            busy = len(body["input"]) < 64 and next(turns) % 2 == 0
            return refusal("busy", 503) if busy else FAILURE if poisoned else None

        instead(server, script)
        with pytest.raises(ServerError, match="text 41 makes the server fail: .* answered 500"):
            run(embedder, [*TEXTS[:41], self.POISON, *TEXTS[41:63]])

    def test_at_one_text_embeds_the_others(self, server: Scripted, loads: Loads) -> None:
        embedder = loads(max_retries=0)
        self.fail(server, self.POISON)
        rows = run_skipping(
            embedder.engine, embedder.encoder, ["a", self.POISON, *TEXTS], EmbedOptions()
        )
        assert [each.index for each in rows.report.skipped] == [1]
        assert np.array_equal(rows.vectors[2:], vectors_of(TEXTS))

    def test_at_one_call_answers_those_that_were_merged_with_it(
        self, server: Scripted, loads: Loads
    ) -> None:
        embedder = loads(max_retries=0)
        self.fail(server, self.POISON)
        before = len(server.asked)
        futures = self.merged(server, embedder, [*TEXTS[:20], self.POISON, *TEXTS[20:40]])
        bad = futures.pop(20)
        with pytest.raises(ServerError, match="text 0 makes the server fail"):
            bad.result(20)
        rows = [future.result(20).vectors[0] for future in futures]
        assert np.array_equal(rows, vectors_of(TEXTS[:40]))
        assert len(server.asked) - before < 30

    def merged(self, server: Scripted, embedder: Embedder, texts: list[str]) -> list[Future[Rows]]:
        """Submit calls of a text each that wait for another one."""
        gate, script = threading.Event(), server.script

        def first(asked: Asked) -> Reply:
            assert gate.wait(20)
            return openai(asked)

        server.script = first
        lead = embedder.engine.submit(["lead"], PLAIN)
        while not server.asked or server.asked[-1].body.get("input") != ["lead"]:
            time.sleep(0.001)
        futures = [embedder.engine.submit([text], PLAIN) for text in texts]
        server.script = script
        gate.set()
        lead.result(20)
        return futures

    def test_at_everything_is_asked_once_and_once_more(
        self, server: Scripted, loads: Loads
    ) -> None:
        embedder = loads(max_retries=0)
        server.script = lambda _: FAILURE
        before = len(server.asked)
        futures = self.merged(server, embedder, TEXTS[:40])
        for future in futures:
            with pytest.raises(ServerError, match="answered 500: no"):
                future.result(20)
        assert len(server.asked) - before == 1 + 2, (
            "the lead; then all at once; then a harmless one"
        )

    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_that_is_down_is_not_asked_again(
        self, server: Scripted, loads: Loads, status: int
    ) -> None:
        embedder = loads(max_retries=0)
        instead(server, lambda _: refusal("no", status))
        before = len(server.asked)
        with pytest.raises(ServerError, match=f"answered {status}"):
            run(embedder, TEXTS[:40])
        assert len(server.asked) - before == 1

    def test_at_all_that_is_not_harmless_is_believed_after_a_while(
        self, server: Scripted, loads: Loads
    ) -> None:
        embedder = loads(max_retries=0)
        self.fail(server, *TEXTS)
        before = len(server.asked)
        futures = self.merged(server, embedder, TEXTS[:40])
        for future in futures:
            with pytest.raises(ServerError, match="answered 500: no"):
                future.result(20)
        assert len(server.asked) - before < 60
        with pytest.raises(ServerError, match="answered 500: no"):
            run_skipping(embedder.engine, embedder.encoder, TEXTS, EmbedOptions())


FAILURE = refusal("no", 500)


def test_a_server_that_dies_half_way(server: Scripted, loads: Loads) -> None:
    embedder = loads(batch_size=5, concurrency=2, max_retries=1)
    count = iter(range(1000))
    instead(server, lambda _: Reply(b"{}", cut=True) if next(count) > 4 else None)
    with pytest.raises(ServerError, match="broke the connection"):
        run(embedder, TEXTS)
    server.script = openai
    assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS)), "and works when it is back"
