"""Embedders behind servers that speak OpenAI's form."""

from __future__ import annotations

import gc
import random
import threading
from typing import Any

import numpy as np
import pytest

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import load
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.servers.errors import RefusedError
from langchain_gpu.servers.server import Server
from tests.unit_tests.remote_openai import (
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
    models,
    openai,
    vectors_of,
)

server, loads = openai_server, openai_embedders


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
            ("far.example:8000", "is not a server address"),
            ("ftp://far.example", "is not a server address"),
            ("http://", "is not a server address"),
            ("http://far.example:port", "is not a server address"),
            ("http://far.example/v1?key=1", "must end before"),
            ("http://me:hidden@far.example", "not hold a user or password"),
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
