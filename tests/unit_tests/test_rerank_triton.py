"""Scores from a Triton server, through the public class and over real gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_gpu import GPURerank
from langchain_gpu.engine.tasks.embed import TextTooLongError
from langchain_gpu.servers.errors import BadAnswerError, RefusedError
from tests.unit_tests.scripted_triton import Asked, Model, ScriptedTriton, serving

DOCUMENTS = [f"document {number} " + "word " * (number % 9) for number in range(50)]
QUERY, DOCUMENT = ("query", "BYTES", [1]), ("document", "BYTES", [1])
SCORE = ("score", "FP32", [1])
Builds = Callable[..., GPURerank]


def score_of(query: bytes, document: bytes) -> float:
    return float(len(query) * 1000 + sum(document) % 997)


def rank(asked: Asked) -> dict[str, Any]:
    pairs = zip(asked.inputs["query"].flat, asked.inputs["document"].flat, strict=True)
    return {"score": np.array([[score_of(*pair)] for pair in pairs], np.float32)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedTriton]:
    model = Model([DOCUMENT, QUERY], [SCORE], rank)  # the order of the inputs says nothing
    with serving(monkeypatch, {"rerank": model}) as running:
        yield running


@pytest.fixture
def builds(server: ScriptedTriton) -> Iterator[Builds]:
    built: list[GPURerank] = []

    def build(**settings: Any) -> GPURerank:
        defaults = {"model": "rerank", "backend": "triton", "base_url": "grpc://far.example"}
        built.append(GPURerank(**{**defaults, **settings}))
        return built[-1]

    yield build
    for reranker in built:
        reranker.close()


def expected(query: str, documents: list[str]) -> list[float]:
    return [score_of(query.encode(), each.encode()) for each in documents]


def test_scores_in_order(server: ScriptedTriton, builds: Builds) -> None:
    reranker = builds(max_concurrency=2)
    scores = reranker.score([("a query", text) for text in DOCUMENTS])
    assert scores.tolist() == expected("a query", DOCUMENTS)
    assert max(len(asked.inputs["query"]) for asked in server.asked) == 8
    assert server.busiest <= 2
    assert reranker.devices[0].name == "far.example:8001"


async def test_documents_come_back_ranked(builds: Builds) -> None:
    reranker = builds(top_n=2)
    documents = [Document(text) for text in DOCUMENTS]
    best = reranker.compress_documents(documents, "why?")
    wanted = expected("why?", DOCUMENTS)
    assert [each.metadata["relevance_score"] for each in best] == sorted(wanted)[:-3:-1]
    assert await reranker.acompress_documents(documents, "why?") == best
    pairs = [("why?", "a"), ("how?", "b"), ("how?", "c")]
    assert (await reranker.ascore(pairs)).tolist() == [
        score_of(query.encode(), text.encode()) for query, text in pairs
    ]


def test_other_names(server: ScriptedTriton, builds: Builds) -> None:
    server.models["rerank"].inputs = [("left", "BYTES", [1]), ("right", "BYTES", [1])]
    server.models["rerank"].answer = lambda asked: rank(
        Asked(
            asked.model,
            {"query": asked.inputs["left"], "document": asked.inputs["right"]},
            asked.parameters,
            asked.headers,
            asked.context,
            asked.closing,
        )
    )
    with pytest.raises(ValueError, match=r"2 inputs of type BYTES.*model_kwargs\['query'\]"):
        builds().score([("a", "b")])
    reranker = builds(model_kwargs={"query": "left", "document": "right", "instruction": "short"})
    assert reranker.score([("a", "bc")]).tolist() == expected("a", ["bc"])
    assert server.asked[-1].parameters == {"instruction": "short"}
    assert builds(model_kwargs={"query": "left"}).score([("a", "b")]).tolist() == expected(
        "a", ["b"]
    )


def test_one_pair_per_request(server: ScriptedTriton, builds: Builds) -> None:
    server.models["rerank"].max_batch = 0
    server.models["rerank"].answer = lambda asked: {"score": rank(asked)["score"][0]}
    pairs = [("a query", text) for text in DOCUMENTS[:5]]
    assert builds().score(pairs).tolist() == expected("a query", DOCUMENTS[:5])


def test_the_document_that_is_to_blame_is_named(server: ScriptedTriton, builds: Builds) -> None:
    def picky(asked: Asked) -> dict[str, Any]:
        if b"bad" in asked.inputs["document"]:
            asked.context.abort(grpc.StatusCode.INTERNAL, "no bad words")
        if b"long" in asked.inputs["document"]:
            asked.context.abort(grpc.StatusCode.INTERNAL, "the sequence length is 600")
        return rank(asked)

    server.models["rerank"].answer = picky
    with pytest.raises(RefusedError, match="document 11 was refused.*no bad words"):
        builds().score([("q", text) for text in [*DOCUMENTS[:11], "bad", "more"]])
    with pytest.raises(TextTooLongError, match="document 1 was refused.*does not cut it"):
        builds().score([("q", text) for text in ["a", "long"]])


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        (np.ones((2, 2), np.float32), r"scores of shape \(2, 2\) for 2 documents"),
        (np.ones((1, 1), np.float32), r"scores of shape \(1, 1\) for 2 documents"),
        (np.array([[1], [np.inf]], np.float32), "no finite score for document 1"),
        (np.ones((2, 1), np.int64), "returned int64"),
    ],
)
def test_wrong_answers(server: ScriptedTriton, builds: Builds, scores: Any, match: str) -> None:
    server.models["rerank"].answer = lambda _: {"score": scores}
    with pytest.raises(BadAnswerError, match=match):
        builds().score([("q", "a"), ("q", "b")])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"base_url": None}, "needs base_url"),
        ({"on_long": "error"}, "cannot be promised"),
        ({"on_long": "window"}, "in its own way: leave out on_long='window'"),
        ({"max_length": 8}, "in its own way: leave out max_length"),
    ],
)
def test_what_cannot_be(builds: Builds, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        builds(**settings).score([("q", "a")])


def test_a_model_it_does_not_have(builds: Builds) -> None:
    with pytest.raises(RefusedError, match=r"no model 'x' that is ready; it has rerank \(ready\)"):
        builds(model="x").score([("q", "a")])
