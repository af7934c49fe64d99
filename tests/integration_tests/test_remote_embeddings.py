"""Encoders and rerankers behind a real Ollama and a real vLLM: the vectors are the local ones."""

from __future__ import annotations

import csv
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import load
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.remote.rerank import RemoteReranker
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTooLongError
from langchain_gpu.events import TruncationWarning
from langchain_gpu.models.resolve import resolve
from langchain_gpu.servers.errors import RefusedError, ServerError
from langchain_gpu.servers.server import Server
from tests.integration_tests.servers import Running, ollama, vllm

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
LONG = "word " * 700

pytestmark = [pytest.mark.shared, pytest.mark.models, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with vllm(tmp_path_factory.mktemp("vllm"), resolve(MINILM).path, "minilm") as server:
        yield server


@pytest.fixture(scope="module")
def ollama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ollama(tmp_path_factory.mktemp("ollama")) as server:
        yield server


@pytest.fixture(scope="module")
def sentences(shared: Path) -> list[str]:
    with (shared / "data/stsb/stsb-en-test.csv").open(newline="") as file:
        return [row[0] for row in csv.reader(file)]


@pytest.fixture(scope="module")
def texts(shared: Path, sentences: list[str]) -> list[str]:
    """500 of mixed lengths, in no order, all within both servers' windows."""
    data = json.loads((shared / "data/xquad/xquad.en.json").read_text())["data"]
    found = [part["context"] for article in data for part in article["paragraphs"]]
    paragraphs = sorted(found, key=len)[20:50]
    odd = ["", " ", "\n", "naïve café 漢字 🙂", "x" * 90, "a\nb", "\u2028"]
    mixed = [*odd, *paragraphs, *sentences[: 500 - len(odd) - len(paragraphs)]]
    random.Random(3).shuffle(mixed)  # noqa: S311 - an order, no secret
    assert len(mixed) == 500
    return mixed


@pytest.fixture(scope="module")
def local(texts: list[str]) -> Vectors:
    vectors: Vectors = GPUEmbeddings(model=MINILM, dtype="float32").embed_to_array(texts)
    return vectors


def remote(server: Running, **settings: Any) -> GPUEmbeddings:
    settings = {"model": "minilm", "base_url": server.url, "timeout": 300, **settings}
    return GPUEmbeddings(**settings)


def least_cosine(left: Vectors, right: Vectors) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


@pytest.fixture(scope="module")
def cross_encoder(shared: Path) -> Path:
    return shared / "models/cross-encoder-minilm-test"


@pytest.fixture(scope="module")
def rerank_server(
    cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with vllm(tmp_path_factory.mktemp("rerank"), cross_encoder, "cross") as server:
        yield server


class TestVLLM:
    def test_the_vectors_are_the_local_ones_in_order(
        self, vllm_server: Running, texts: list[str], local: Vectors
    ) -> None:
        with remote(vllm_server) as embeddings:
            vectors = embeddings.embed_to_array(texts)
            assert embeddings.backend_reason.startswith("openai: ")
            assert embeddings.window == 256
            assert least_cosine(vectors, local) >= 0.999
            query = np.array([embeddings.embed_query(texts[7])], np.float32)
            assert least_cosine(query, local[[7]]) >= 0.999

    def test_long_texts(self, vllm_server: Running) -> None:
        texts = ["one", LONG, "three"]
        with remote(vllm_server) as embeddings:
            with pytest.warns(TruncationWarning, match="were cut by"):
                vectors = embeddings.embed_to_array(texts)
            with pytest.warns(TruncationWarning):
                here = GPUEmbeddings(model=MINILM, dtype="float32").embed_to_array(texts)
            assert least_cosine(vectors, here) >= 0.999
        with (
            remote(vllm_server, on_long="error") as embeddings,
            pytest.raises(TextTooLongError, match="text 1 was refused"),
        ):
            embeddings.embed_to_array(texts)

    def test_token_ids_and_counts(self, vllm_server: Running, texts: list[str]) -> None:
        here = GPUEmbeddings(model=MINILM, dtype="float32")
        ids = [[101, 7592, 2088, 102], [101, 2182, 102]]
        with remote(vllm_server) as embeddings:
            assert least_cosine(embeddings.embed_tokens(ids), here.embed_tokens(ids)) >= 0.999
            assert embeddings.count_tokens(texts[:20]) == here.count_tokens(texts[:20])

    def test_an_unknown_model(self, vllm_server: Running) -> None:
        with pytest.raises(RefusedError, match="no model 'nope' for embeddings; it serves minilm"):
            remote(vllm_server, model="nope").embed_query("a")

    def test_killed_under_way(self, vllm_server: Running, texts: list[str]) -> None:
        """The last test of this server."""
        _kill_under_way(vllm_server, "openai", texts * 4)


class TestOllama:
    def test_the_vectors_are_the_local_ones_in_order(
        self, ollama_server: Running, texts: list[str], local: Vectors
    ) -> None:
        with remote(ollama_server) as embeddings:
            vectors = embeddings.embed_to_array(texts)
            assert embeddings.backend_reason.startswith("ollama: ")
            assert embeddings.window == 512
            assert least_cosine(vectors, local) >= 0.999

    def test_the_openai_form_of_ollama(
        self, ollama_server: Running, texts: list[str], local: Vectors
    ) -> None:
        with remote(ollama_server, backend="openai") as embeddings:
            assert least_cosine(embeddings.embed_to_array(texts[:20]), local[:20]) >= 0.999

    def test_long_texts(self, ollama_server: Running) -> None:
        with (
            remote(ollama_server) as embeddings,
            pytest.warns(TruncationWarning, match="were cut by"),
        ):
            assert embeddings.embed_to_array(["one", LONG]).shape == (2, 384)
        with (
            remote(ollama_server, on_long="error") as embeddings,
            pytest.raises(TextTooLongError, match="text 1 was refused"),
        ):
            embeddings.embed_to_array(["one", LONG])

    def test_an_unknown_model(self, ollama_server: Running) -> None:
        with pytest.raises(RefusedError, match="fetch it with: ollama pull nope"):
            remote(ollama_server, model="nope").embed_query("a")

    def test_killed_under_way(self, ollama_server: Running, texts: list[str]) -> None:
        """The last test of this server."""
        _kill_under_way(ollama_server, "ollama", texts)


class TestRerank:
    def test_the_scores_are_the_local_ones(
        self, rerank_server: Running, cross_encoder: Path, sentences: list[str]
    ) -> None:
        query, documents = sentences[0], sentences[:200]
        reranker = RemoteReranker("cross", Server(url=rerank_server.url, batch_size=32))
        scores = reranker.score(query, documents)
        here = CrossEncoder(str(cross_encoder), device="cpu")
        wanted = here.predict([(query, document) for document in documents])
        assert np.abs(scores - wanted).max() < 1e-3
        with pytest.warns(TruncationWarning, match="were cut by"):
            assert reranker.score(query, ["short", LONG]).shape == (2,)
        with pytest.raises(TextTooLongError, match="document 1 was refused"):
            reranker.score(query, ["short", LONG], on_long="error")
        reranker.close()

    def test_an_unknown_model(self, rerank_server: Running) -> None:
        with pytest.raises(RefusedError, match="does not rerank with model 'nope'"):
            RemoteReranker("nope", Server(url=rerank_server.url))


def _kill_under_way(server: Running, backend: str, texts: list[str]) -> None:
    """Kill the server after the first batch: an error that says so, and nobody hangs."""
    first = threading.Event()
    settings = Server(url=server.url, batch_size=8, concurrency=2, max_retries=1)
    config = EmbedderConfig(model="minilm", backend=backend, server=settings)
    embedder = load(config, lambda _: first.set())
    killer = threading.Thread(target=_after(first, server.kill))
    killer.start()
    with pytest.raises(ServerError, match="127.0.0.1:.* (broke the connection|cannot be reached)"):
        embedder.engine.run(texts, EmbedOptions())
    killer.join(60)
    embedder.close()


def _after(event: threading.Event, action: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        event.wait(120)
        action()

    return run
