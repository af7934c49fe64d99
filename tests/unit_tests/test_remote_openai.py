"""Embedders behind servers that speak OpenAI's form."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.ladder import EngineOutOfMemoryError
from langchain_gpu.engine.report import Rows
from langchain_gpu.engine.skipping import run_skipping
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTooLongError
from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers.errors import BadAnswerError, RefusedError, ServerError
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_server import (
    Asked,
    Reply,
    Scripted,
    embeddings,
    models,
    openai,
    serving,
    vectors_of,
)

PLAIN = EmbedOptions()
TEXTS = [f"text {number} " + "word " * (number * 7 % 40) for number in range(100)]
Loads = Callable[..., Embedder]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with serving(monkeypatch, openai) as running:
        yield running


@pytest.fixture
def loads(server: Scripted) -> Iterator[Loads]:
    """Load an embedder, closed at the end."""
    opened: list[Embedder] = []

    def load_it(**settings: Any) -> Embedder:
        url = settings.pop("url", "http://far.example")
        model = settings.pop("model", "m")
        more = {
            name: settings.pop(name) for name in ("dtype", "device", "options") if name in settings
        }
        config = EmbedderConfig(
            model=model, backend="openai", server=Server(url=url, **settings), **more
        )
        opened.append(load(config))
        return opened[-1]

    yield load_it
    for embedder in opened:
        embedder.close()


def run(embedder: Embedder, texts: list[str], options: EmbedOptions = PLAIN) -> Any:
    return embedder.engine.run(texts, options).vectors


def instead(server: Scripted, answer: Callable[[Any], Reply | None]) -> None:
    """Answer batches in another way: what the callable returns None for is answered as usual."""

    def script(asked: Asked) -> Reply:
        if asked.path == "/v1/embeddings" and asked.body["input"] != ["dimension"]:
            return answer(asked.body) or openai(asked)
        return openai(asked)

    server.script = script


def refusal(message: str, status: int = 400) -> Reply:
    return Reply(status=status, body={"error": {"message": message, "code": status}})


class TestOrder:
    def test_whatever_the_server_takes_its_time_for(self, server: Scripted, loads: Loads) -> None:
        draw = random.Random(7)  # noqa: S311 - delays, no secrets
        lock = threading.Lock()

        def late(_: Any) -> Reply | None:
            with lock:
                pause = draw.random() / 50
            threading.Event().wait(pause)
            return None

        instead(server, late)
        embedder = loads(batch_size=7, concurrency=5)
        for seed in range(3):
            texts = random.Random(seed).sample(TEXTS, len(TEXTS))  # noqa: S311
            assert np.array_equal(run(embedder, texts), vectors_of(texts))
        assert server.busiest <= 5

    def test_batches_really_fly_together(self, server: Scripted, loads: Loads) -> None:
        gate = threading.Barrier(4, timeout=20)

        def together(_: Any) -> Reply | None:
            gate.wait()
            return None

        instead(server, together)
        embedder = loads(batch_size=5, concurrency=4)
        texts = TEXTS[:20]  # four batches; one after the other, they would break the barrier
        assert np.array_equal(run(embedder, texts), vectors_of(texts))

    def test_the_index_field_counts(self, server: Scripted, loads: Loads) -> None:
        def shuffled(body: Any) -> Reply:
            reply = embeddings(body)
            reply.body["data"].reverse()
            return reply

        instead(server, shuffled)
        assert np.array_equal(run(loads(), TEXTS), vectors_of(TEXTS))

    def test_batches_hold_no_more_than_was_said(self, server: Scripted, loads: Loads) -> None:
        run(loads(batch_size=8), TEXTS)
        sizes = [len(body["input"]) for body in server.of("/v1/embeddings")]
        assert max(sizes) == 8


class TestAddress:
    @pytest.mark.parametrize(
        "url", ["http://far.example", "http://far.example/", "http://far.example:9/v1"]
    )
    def test_with_and_without_v1(self, loads: Loads, url: str) -> None:
        assert np.array_equal(run(loads(url=url), TEXTS[:3]), vectors_of(TEXTS[:3]))

    def test_a_server_without_v1_and_without_a_list_of_models(
        self, server: Scripted, loads: Loads
    ) -> None:
        server.script = lambda asked: (
            embeddings(asked.body)
            if asked.path == "/embeddings"
            else Reply(status=404, body={"detail": "Not Found"})
        )
        assert np.array_equal(run(loads(), TEXTS[:3]), vectors_of(TEXTS[:3]))

    def test_v1_without_a_list_of_models(self, server: Scripted, loads: Loads) -> None:
        server.script = lambda asked: (
            embeddings(asked.body) if asked.path == "/v1/embeddings" else Reply(status=405)
        )
        embedder = loads()
        assert np.array_equal(run(embedder, TEXTS[:3]), vectors_of(TEXTS[:3]))
        assert embedder.encoder.window is None

    def test_nothing_there_that_embeds(self, server: Scripted, loads: Loads) -> None:
        server.script = lambda _: Reply(status=404, body=b"404 page not found")
        with pytest.raises(RefusedError, match="nothing at http://far.example/embeddings; is that"):
            loads()

    def test_a_model_it_does_not_have(self, server: Scripted, loads: Loads) -> None:
        server.script = lambda asked: (
            models("one", "two")
            if asked.path == "/v1/models"
            else refusal("The model `m` does not exist.", 404)
        )
        with pytest.raises(RefusedError, match="no model 'm' for embeddings; it serves one, two"):
            loads()

    @pytest.mark.parametrize(
        ("url", "match"),
        [
            ("far.example:8000", "is no address"),
            ("ftp://far.example", "is no address"),
            ("http://", "is no address"),
            ("http://far.example:port", "is no address"),
            ("http://far.example/v1?key=1", "must end before"),
            ("http://me:hidden@far.example", "no user or password"),
        ],
    )
    def test_what_is_no_address(self, loads: Loads, url: str, match: str) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            loads(url=url)
        assert "hidden" not in str(caught.value)


class TestForm:
    def test_base64_is_asked_for(self, server: Scripted, loads: Loads) -> None:
        run(loads(), TEXTS[:3])
        assert all(body["encoding_format"] == "base64" for body in server.of("/v1/embeddings"))
        assert all("dimensions" not in body for body in server.of("/v1/embeddings"))

    def test_where_it_is_refused_numbers_are_taken_and_that_is_remembered(
        self, server: Scripted, loads: Loads
    ) -> None:
        def script(asked: Asked) -> Reply:
            if asked.body is not None and "encoding_format" in asked.body:
                return refusal("encoding_format: extra fields not permitted", 422)
            return openai(asked)

        server.script = script
        embedder = loads(batch_size=10)
        assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))
        assert sum("encoding_format" in body for body in server.of("/v1/embeddings")) == 1

    def test_where_it_is_read_over_numbers_are_taken(self, server: Scripted, loads: Loads) -> None:
        def script(asked: Asked) -> Reply:
            if asked.body is not None:
                asked.body.pop("encoding_format", None)
            return openai(asked)

        server.script = script
        assert np.array_equal(run(loads(), TEXTS), vectors_of(TEXTS))

    def test_token_ids(self, loads: Loads) -> None:
        encoder = loads().encoder
        rows = [[101, 7, 102], [101, 102], [101, 3, 4, 5, 102]]
        tokens = encoder.from_ids(rows)
        order = np.array([2, 0, 1])
        vectors = encoder.forward(encoder.prepare(tokens, order))()
        assert tokens.lengths.tolist() == [3, 2, 5]
        assert np.array_equal(vectors, vectors_of(rows)[order])

    @pytest.mark.parametrize(
        ("row", "match"),
        [
            ([], "is empty"),
            ([-1], "holds a negative id"),
            ([1] * 257, "has 257 ids, and the model's"),
        ],
    )
    def test_token_ids_that_cannot_be(self, loads: Loads, row: list[int], match: str) -> None:
        with pytest.raises(ValueError, match=f"token row 11 {match}"):
            loads().encoder.from_ids([[1], row], start=10)

    def test_prompts_and_more_fields_by_kind(self, server: Scripted, loads: Loads) -> None:
        """NIM wants to know what a text is."""
        embedder = loads(
            options={
                "truncate": "END",
                "query": {"input_type": "query"},
                "document": {"input_type": "passage"},
            }
        )
        run(embedder, ["a"], EmbedOptions(prompt="query: ", task="query"))
        run(embedder, ["b"], EmbedOptions(task="document"))
        query, document = server.of("/v1/embeddings")[-2:]
        assert (query["input"], query["input_type"]) == (["query: a"], "query")
        assert (document["input"], document["input_type"]) == (["b"], "passage")
        assert query["truncate"] == document["truncate"] == "END"
        assert "query" not in query

    @pytest.mark.parametrize(
        "options", [{"input": "x"}, {"query": {"model": "x"}}, {"encoding_format": "float"}]
    )
    def test_fields_that_are_not_the_users(self, loads: Loads, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="is set by the encoder; leave it out"):
            loads(options=options)

    def test_what_is_chosen_by_the_server(self, loads: Loads) -> None:
        with pytest.raises(ValueError, match="dtype='float16' cannot be chosen here"):
            loads(dtype="float16")
        with pytest.raises(ValueError, match="device='cuda' cannot be chosen here"):
            loads(device="cuda")
        embedder = loads()
        assert embedder.encoder.dtype == "as served"
        assert embedder.encoder.window == 256
        assert embedder.encoder.device.kind == "remote"
        assert embedder.encoder.device.name == "far.example"
        with pytest.raises(ValueError, match="cannot move to"):
            embedder.encoder.to(embedder.encoder.device)


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
            ([{}] * 2, "cannot be read|shape|NaN"),
            (["a", "b"], "no list of vectors"),
            (None, "no list of vectors"),
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

    def test_a_limit_on_the_number_is_found_and_remembered(
        self, server: Scripted, loads: Loads
    ) -> None:
        instead(
            server,
            lambda body: refusal("batch size > maximum", 422) if len(body["input"]) > 16 else None,
        )
        embedder = loads(batch_size=64, concurrency=1)
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
        with pytest.raises(EngineOutOfMemoryError, match="does not fit on remote even alone"):
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


def test_a_close_ends_a_run(server: Scripted, loads: Loads) -> None:
    embedder = loads(batch_size=5, concurrency=2)
    arrived = threading.Event()

    def slow(_: Any) -> Reply | None:
        arrived.set()
        return Reply(delay=60)

    instead(server, slow)

    def close() -> None:
        arrived.wait(20)
        embedder.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(RuntimeError, match="closed"):
        run(embedder, TEXTS)
    closer.join(20)


def test_an_embedder_that_is_forgotten_ends_its_thread(server: Scripted) -> None:
    before = set(threading.enumerate())
    config = EmbedderConfig(model="m", backend="openai", server=Server(url="http://far.example"))
    embedder = load(config)
    run(embedder, TEXTS)
    assert [each for each in set(threading.enumerate()) - before if "remote" in each.name]
    del embedder
    gc.collect()
    assert not [each for each in set(threading.enumerate()) - before if "remote" in each.name]


@pytest.mark.parametrize("listed", [{"data": 3}, {"data": None}, {"data": ["m"]}, [], 7, {}])
def test_a_list_of_models_that_is_none(server: Scripted, loads: Loads, listed: Any) -> None:
    server.script = lambda asked: Reply(listed) if asked.path == "/v1/models" else openai(asked)
    embedder = loads()
    assert embedder.encoder.window is None
    assert np.array_equal(run(embedder, TEXTS), vectors_of(TEXTS))


def test_counting_tokens(server: Scripted, loads: Loads) -> None:
    def script(asked: Asked) -> Reply:
        if asked.path == "/tokenize":
            return Reply({"count": len(asked.body["prompt"].split()) + 2})
        return openai(asked)

    server.script = script
    assert loads().encoder.count_tokens(["", "one two"]) == [2, 4]
    server.script = lambda asked: Reply(status=404) if asked.body is None else openai(asked)
    with pytest.raises(ValueError, match="does not count tokens"):
        loads().encoder.count_tokens(["a"])


def test_the_face(server: Scripted) -> None:
    with GPUEmbeddings(
        model="m", backend="openai", base_url="http://far.example", api_key="sk-hidden"
    ) as embeddings_:
        assert np.array_equal(embeddings_.embed_to_array(TEXTS), vectors_of(TEXTS))
        assert embeddings_.embed_query("a question") == vectors_of(["a question"])[0].tolist()
        assert "hidden" not in repr(embeddings_)
    assert server.asked[-1].headers["authorization"] == "Bearer sk-hidden"
