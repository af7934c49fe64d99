"""A reranker behind a server, in the forms that are spoken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from langchain_gpu.engine.remote.rerank import RemoteReranker
from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.events import TruncationWarning
from langchain_gpu.servers.errors import (
    BadAnswerError,
    FailedItemError,
    RefusedError,
    ServerError,
)
from langchain_gpu.servers.server import Server
from tests.unit_tests.scripted_server import Asked, Reply, Scripted, serving

DOCUMENTS = [f"document {number} " + "word " * (number % 9) for number in range(50)]
NOWHERE = Reply(status=404, body={"detail": "Not Found"})
Builds = Callable[..., RemoteReranker]


def score_of(query: str, document: str) -> float:
    return float(len(query) * 1000 + sum(document.encode()) % 997)


def expected(query: str, documents: list[str]) -> np.ndarray[Any, Any]:
    return np.array([score_of(query, document) for document in documents], np.float32)


def ranked(query: str, documents: list[str], name: str) -> list[dict[str, Any]]:
    """Best first, as servers return them."""
    rows = [{"index": i, name: score_of(query, text)} for i, text in enumerate(documents)]
    return sorted(rows, key=lambda row: -row[name])


def cohere(asked: Asked, place: str = "/v1/rerank") -> Reply:
    if asked.path != place:
        return NOWHERE
    if "documents" not in asked.body:
        return Reply(status=422, body={"error": "Field required: documents"})
    if asked.body["model"] != "m":
        return Reply(status=404, body={"error": "The model does not exist"})
    rows = ranked(asked.body["query"], asked.body["documents"], "relevance_score")
    return Reply({"id": "1", "results": rows})


def tei(asked: Asked) -> Reply:
    if asked.path != "/rerank":
        return Reply(status=404)
    if "texts" not in asked.body:
        return Reply(status=422, body=b"missing field `texts` at line 1 column 99")
    return Reply(ranked(asked.body["query"], asked.body["texts"], "score"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with serving(monkeypatch, cohere) as running:
        yield running


@pytest.fixture
def builds(server: Scripted) -> Iterator[Builds]:
    built: list[RemoteReranker] = []

    def build(model: str = "m", url: str = "http://far.example", **settings: Any) -> RemoteReranker:
        built.append(RemoteReranker(model, Server(url=url, **settings)))
        return built[-1]

    yield build
    for reranker in built:
        reranker.close()


@pytest.mark.parametrize(
    ("script", "url"),
    [
        (cohere, "http://far.example"),
        (cohere, "http://far.example/v1"),
        (cohere, "http://far.example/v1/rerank"),
        (lambda asked: cohere(asked, "/rerank"), "http://far.example"),
        (lambda asked: cohere(asked, "/v2/rerank"), "http://far.example/v2"),
        (tei, "http://far.example"),
        (tei, "http://far.example/rerank"),
    ],
)
def test_every_form(
    server: Scripted, builds: Builds, script: Callable[[Asked], Reply], url: str
) -> None:
    server.script = script
    reranker = builds(url=url, batch_size=7, concurrency=3)
    scores = reranker.score("a query", DOCUMENTS)
    assert np.array_equal(scores, expected("a query", DOCUMENTS))
    assert scores.dtype == np.float32
    assert reranker.device.kind == "remote"
    assert server.busiest <= 3


def test_no_documents(builds: Builds) -> None:
    assert builds().score("a query", []).shape == (0,)


def test_nothing_there_that_reranks(server: Scripted, builds: Builds) -> None:
    server.script = lambda _: NOWHERE
    with pytest.raises(RefusedError, match="has no place that reranks; is the address right"):
        builds()


def test_a_model_it_does_not_have(builds: Builds) -> None:
    with pytest.raises(RefusedError, match="does not rerank with model 'x' .The model does not"):
        builds(model="x")


def test_a_wrong_key_is_no_matter_of_form(server: Scripted, builds: Builds) -> None:
    server.script = lambda _: Reply(status=401)
    with pytest.raises(RefusedError, match="it may want an api_key"):
        builds()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ({"results": [{"index": 0, "relevance_score": 1}]}, "1 scores for 2 documents"),
        ({"results": [{"index": 0, "relevance_score": 1}] * 2}, "no finite score for document 1"),
        ({"results": [{"index": i, "relevance_score": 1} for i in (0, 2)]}, "cannot be read"),
        ({"results": [{"index": i, "relevance_score": 1} for i in (0, -1)]}, "the position -1"),
        ({"results": [{"index": None, "relevance_score": 1}] * 2}, "the position None"),
        ({"results": [{"index": [0, 1], "relevance_score": 1}] * 2}, r"the position \[0, 1\]"),
        ({"results": [{"index": i, "relevance_score": "x"} for i in (0, 1)]}, "cannot be read"),
        ({"results": [{"index": i} for i in (0, 1)]}, "cannot be read"),
        (
            {"results": [{"index": i, "relevance_score": float("nan")} for i in (0, 1)]},
            "no finite score for document 0",
        ),
        ({"answer": 42}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_wrong_answers(server: Scripted, builds: Builds, answer: Any, match: str) -> None:
    reranker = builds()
    server.script = lambda _: Reply(answer)
    with pytest.raises(BadAnswerError, match=match):
        reranker.score("q", ["a", "b"])


class TestBadDocuments:
    def test_the_one_to_blame_is_named(self, server: Scripted, builds: Builds) -> None:
        server.script = lambda asked: (
            Reply(status=422, body={"error": "no, thanks"})
            if "poison" in asked.body["documents"]
            else cohere(asked)
        )
        documents = [*DOCUMENTS[:33], "poison", *DOCUMENTS[33:]]
        with pytest.raises(RefusedError, match="document 33 was refused: .*no, thanks"):
            builds(batch_size=16).score("q", documents)

    def test_a_limit_on_the_number(
        self, server: Scripted, builds: Builds, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.script = lambda asked: (
            Reply(status=413, body={"error": "too many"})
            if len(asked.body["documents"]) > 10
            else cohere(asked)
        )
        reranker = builds(batch_size=32)
        assert np.array_equal(reranker.score("q", DOCUMENTS), expected("q", DOCUMENTS))
        # Of 32 and 18 documents, halved at once; which is refused first is a race.
        assert re.search(r"gets [89] documents per request from now", caplog.text)
        before = len(server.asked)
        reranker.score("q", DOCUMENTS)
        sizes = [len(asked.body["documents"]) for asked in server.asked[before:]]
        assert max(sizes) <= 10, "what is refused is not tried again"

    @pytest.mark.parametrize(
        ("query", "documents", "error", "match"),
        [
            (3, ["a"], TypeError, "the query is int"),
            ("q", "a", TypeError, "documents is a single str; pass a list"),
            ("q", ["a", None], TypeError, "text 1 is NoneType"),
            ("q\ud800", ["a"], ValueError, "the query holds a lone surrogate"),
            ("q", ["a", "\udfff"], ValueError, "document 1 holds a lone surrogate"),
        ],
    )
    def test_what_cannot_be_sent(
        self, builds: Builds, query: Any, documents: Any, error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            builds().score(query, documents)


class TestAServerThatFails:
    """It answers 500; nobody knows whether that is a document's fault."""

    def fail(self, server: Scripted, at: Callable[[list[str]], bool], words: str = "no") -> None:
        def script(asked: Asked) -> Reply:
            if at(asked.body.get("documents", [])):
                return Reply(status=500, body={"error": words})
            return cohere(asked)

        server.script = script

    def test_at_one_document(self, server: Scripted, builds: Builds) -> None:
        self.fail(server, lambda documents: "poison" in documents)
        documents = [*DOCUMENTS[:33], "poison", *DOCUMENTS[33:]]
        reranker = builds(batch_size=16)
        told = "document 33 makes the server fail: .* answered 500: no"
        with pytest.raises(FailedItemError, match=told) as caught:
            reranker.score("q", documents)
        assert caught.value.position == 33

    def test_at_everything(self, server: Scripted, builds: Builds) -> None:
        """It is not asked for each half of what it failed at."""
        reranker = builds(batch_size=64, max_retries=1)
        self.fail(server, lambda _: True)
        before = len(server.asked)
        with pytest.raises(ServerError, match="answered 500: no") as caught:
            reranker.score("q", DOCUMENTS)
        assert not isinstance(caught.value, FailedItemError)
        assert len(server.asked) - before == 4, "the documents twice, something harmless twice"

    def test_for_want_of_memory(self, server: Scripted, builds: Builds) -> None:
        words = "CUDA out of memory. Tried to allocate 2 GiB"
        self.fail(server, lambda documents: len(documents) > 10, words)
        reranker = builds(batch_size=50, max_retries=0)
        assert np.array_equal(reranker.score("q", DOCUMENTS), expected("q", DOCUMENTS))

    def test_for_want_of_memory_at_everything(self, server: Scripted, builds: Builds) -> None:
        reranker = builds(batch_size=64, max_retries=0)
        before = len(server.asked)
        self.fail(server, lambda _: True, "CUDA out of memory.")
        with pytest.raises(ServerError, match="document 0 makes the server fail: .*out of memory"):
            reranker.score("q", DOCUMENTS)
        assert len(server.asked) - before == 7, "50, 25, 13, 7, 4, 2, 1 documents"


class TestLongDocuments:
    LONG = "word " * 700

    def refuse_long(self, server: Scripted, *, cuts: bool) -> None:
        def script(asked: Asked) -> Reply:
            documents = asked.body.get("documents", []) if asked.path == "/v1/rerank" else []
            cut = cuts and asked.body.get("truncate_prompt_tokens") == -1
            if self.LONG in documents and not cut:
                return Reply(status=400, body={"error": "maximum context length is 512 tokens"})
            return cohere(asked)

        server.script = script

    def test_are_cut_and_that_is_told(self, server: Scripted, builds: Builds) -> None:
        self.refuse_long(server, cuts=True)
        documents = [*DOCUMENTS, self.LONG]
        with pytest.warns(TruncationWarning, match="cut by far.example .*document 48"):
            scores = builds(batch_size=16).score("q", documents)
        assert np.array_equal(scores, expected("q", documents))

    @pytest.mark.parametrize(
        ("cuts", "on_long", "remedy"),
        [(True, "error", "choose on_long='truncate'"), (False, "truncate", "does not cut it")],
    )
    def test_are_refused_by_name(
        self, server: Scripted, builds: Builds, *, cuts: bool, on_long: Any, remedy: str
    ) -> None:
        self.refuse_long(server, cuts=cuts)
        with pytest.raises(TextTooLongError, match=f"document 1 was refused: .*{remedy}"):
            builds().score("q", ["a", self.LONG, "b"], on_long=on_long)


def test_one_failing_request_ends_the_others(server: Scripted, builds: Builds) -> None:
    """Or the next call would wait behind requests nobody wants: there is one slot."""
    reranker = builds(batch_size=5, concurrency=1, max_retries=0, timeout=30)

    def script(asked: Asked) -> Reply:
        if asked.path == "/v1/rerank" and DOCUMENTS[0] in asked.body["documents"]:
            return Reply(status=503)
        return Reply(delay=60) if len(asked.body["documents"]) > 1 else cohere(asked)

    server.script = script
    with pytest.raises(ServerError, match="answered 503"):
        reranker.score("q", DOCUMENTS)
    assert np.array_equal(reranker.score("q", ["a"]), expected("q", ["a"]))
