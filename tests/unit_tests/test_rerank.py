"""`GPURerank` as LangChain and people use it, with a tiny model."""

from __future__ import annotations

import asyncio
import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError
from sentence_transformers import CrossEncoder

from langchain_gpu import GPURerank, create_rag_chain
from langchain_gpu.events import BatchDone, TruncationWarning
from langchain_gpu.rerank import Ranked
from tests.unit_tests.tiny_models import WORDS

QUERY = "is the gpu fast"
TEXTS = ["the cpu is slow", "memory", "a fast gpu", "", "one batch of text", "memory", "model: x1"]

# Equal rows of a batch may differ in the last bit: kernels treat its edges in their own way.
DISTINCT = list(dict.fromkeys(TEXTS))

Make = Callable[..., GPURerank]


@pytest.fixture(scope="module")
def make(tiny_reranker: Callable[[str], str]) -> Make:
    def made(name: str = "bert-identity", **options: Any) -> GPURerank:
        given = {"device": "cpu", "backend": "torch", "dtype": "float32", "top_n": None}
        return GPURerank(model=tiny_reranker(name), **(given | options))

    return made


@pytest.fixture(scope="module")
def reranker(make: Make) -> GPURerank:
    return make()


@pytest.fixture(scope="module")
def reference(tiny_reranker: Callable[[str], str]) -> Callable[[list[tuple[str, str]]], Any]:
    model = CrossEncoder(tiny_reranker("bert-identity"), device="cpu")
    return lambda pairs: model.predict([list(pair) for pair in pairs])


def documents(texts: Sequence[str] = TEXTS) -> list[Document]:
    return [Document(text, metadata={"n": n}, id=str(n)) for n, text in enumerate(texts)]


def scores(found: list[Document]) -> list[float]:
    return [document.metadata["relevance_score"] for document in found]


def test_best_first_as_copies_with_a_float(reranker: GPURerank, reference: Any) -> None:
    given = documents(DISTINCT)
    before = copy.deepcopy(given)
    found = reranker.compress_documents(given, QUERY)
    assert given == before, "the caller's documents are untouched"
    wanted = reference([(QUERY, text) for text in DISTINCT])
    assert max(wanted) - min(wanted) > 0.5, "scores that spread"
    order = np.argsort(-wanted, kind="stable")
    assert [document.metadata["n"] for document in found] == order.tolist()
    assert scores(found) == pytest.approx(wanted[order].tolist(), abs=1e-4)
    assert all(type(score) is float for score in scores(found))
    assert [document.id for document in found] == [str(n) for n in order]
    assert [document.page_content for document in found] == [DISTINCT[n] for n in order]


def test_equal_scores_keep_their_order(reranker: GPURerank) -> None:
    found = reranker.compress_documents(documents(), QUERY)
    twins = [document.metadata["n"] for document in found if document.page_content == "memory"]
    assert twins == [1, 5]
    places = reranker.rerank(QUERY, ["memory"] * 40)
    assert [place.index for place in places] == list(range(40))
    assert len({place.score for place in places}) == 1


@pytest.mark.parametrize(("top_n", "count"), [(None, 7), (1, 1), (3, 3), (7, 7), (100, 7)])
def test_top_n(make: Make, top_n: int | None, count: int) -> None:
    reranker = make(top_n=top_n)
    found = reranker.compress_documents(documents(), QUERY)
    assert len(found) == count
    every = reranker.rerank(QUERY, TEXTS)
    assert len(every) == 7, "the field is for documents"
    assert [place.score for place in every[:count]] == scores(found)
    assert reranker.rerank(QUERY, TEXTS, count) == every[:count]


def test_three_by_default() -> None:
    assert GPURerank().top_n == 3


def test_documents_below_the_threshold_are_left_out(make: Make) -> None:
    every = make().rerank(QUERY, TEXTS)
    limit = every[2].score
    reranker = make(score_threshold=limit)
    assert len(reranker.compress_documents(documents(), QUERY)) == 3
    assert reranker.rerank(QUERY, TEXTS) == every[:3]
    assert make(score_threshold=1e9).compress_documents(documents(), QUERY) == []


async def test_nothing_and_one(reranker: GPURerank) -> None:
    assert reranker.compress_documents([], QUERY) == []
    assert await reranker.acompress_documents([], QUERY) == []
    assert reranker.rerank(QUERY, []) == []
    assert reranker.score([]).shape == (0,)
    assert reranker.score_batch([], []) == []
    (only,) = reranker.compress_documents([Document("memory")], QUERY)
    assert only.page_content == "memory"


def test_nothing_loads_nothing(make: Make) -> None:
    reranker = make(name="bert")
    assert reranker.compress_documents([], QUERY) == []
    assert reranker._loaded.keeper.loaded is None


async def test_sync_async_and_batch_agree(reranker: GPURerank) -> None:
    wanted = reranker.compress_documents(documents(), QUERY)
    assert await reranker.acompress_documents(documents(), QUERY) == wanted
    places = reranker.rerank(QUERY, documents())
    assert [place.score for place in places] == scores(wanted)
    assert await reranker.arerank(QUERY, TEXTS) == places
    pairs = [(QUERY, text) for text in TEXTS]
    alone = np.array([reranker.score([pair])[0] for pair in pairs])
    together = reranker.score(pairs)
    assert np.array_equal(await reranker.ascore(pairs), together)
    assert together == pytest.approx(alone, abs=1e-5)
    queries = [QUERY, "slow", "the", ""]
    lists: list[Sequence[str | Document]] = [TEXTS, TEXTS[:2], [], documents()[3:]]
    batch = reranker.score_batch(queries, lists)
    assert [each.shape for each in batch] == [(7,), (2,), (0,), (4,)]
    for query, texts, found in zip(queries, lists, batch, strict=True):
        wanted_scores = reranker.score(
            [(query, text.page_content if isinstance(text, Document) else text) for text in texts]
        )
        assert found == pytest.approx(wanted_scores, abs=1e-5)


def test_places_are_values() -> None:
    place = Ranked(2, 0.5)
    assert (place.index, place.score) == (2, 0.5)
    assert repr(place) == "Ranked(index=2, score=0.5)"
    with pytest.raises(AttributeError):
        setattr(place, "score", 1.0)  # noqa: B010 - the type checker knows


def test_ten_thousand_documents(make: Make, reference: Any) -> None:
    words = np.random.default_rng(0)
    texts = [" ".join(words.choice(WORDS, words.integers(0, 24))) for _ in range(10_000)]
    found = make().rerank(QUERY, texts)
    assert sorted(place.index for place in found) == list(range(10_000))
    values = [place.score for place in found]
    assert values == sorted(values, reverse=True)
    some = found[::500]
    wanted = reference([(QUERY, texts[place.index]) for place in some])
    assert [place.score for place in some] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_many_threads_and_tasks(make: Make) -> None:
    reranker = make(name="bert")
    queries = [f"{word} {n}" for n, word in enumerate(WORDS * 3)]
    alone = make(name="bert")
    wanted = [alone.rerank(query, DISTINCT) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(lambda query: reranker.rerank(query, DISTINCT), queries))

    async def tasks() -> list[list[Ranked]]:
        return await asyncio.gather(*(reranker.arerank(query, DISTINCT) for query in queries))

    for found in (threads, asyncio.run(tasks())):
        for left, right in zip(found, wanted, strict=True):
            assert [place.index for place in left] == [place.index for place in right]
            assert [place.score for place in left] == pytest.approx(
                [place.score for place in right], abs=1e-5
            )


async def test_tasks_share_forward_passes(make: Make) -> None:
    batches: list[Any] = []
    reranker = make(on_event=batches.append)
    reranker.score([("a", "b")])
    batches.clear()
    await asyncio.gather(*(reranker.ascore([("the", word)]) for word in WORDS))
    done = [event for event in batches if isinstance(event, BatchDone)]
    assert sum(event.items for event in done) == len(WORDS)
    assert len(done) < len(WORDS) / 2


async def test_one_bad_call_fails_alone(reranker: GPURerank) -> None:
    good = [reranker.ascore([("the", word)]) for word in WORDS]
    found = await asyncio.gather(reranker.ascore([("a", "\ud800")]), *good, return_exceptions=True)
    assert isinstance(found[0], ValueError)
    assert all(isinstance(each, np.ndarray) for each in found[1:])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.rerank("a", ["b", None]), TypeError, "document of pair 1 is NoneType"),
        (lambda r: r.rerank(3, ["b"]), TypeError, "the query of pair 0 is int"),
        (lambda r: r.rerank("a", "b"), TypeError, "documents is a single str; pass a list"),
        (lambda r: r.compress_documents(Document("b"), "a"), TypeError, "is a single Document"),
        (lambda r: r.score(["ab"]), TypeError, "pair 0 is str, not (query, document)"),
        (lambda r: r.rerank("a", ["b", "\udc80"]), ValueError, "pair 1 holds a lone surrogate"),
        (lambda r: r.rerank("a", ["b"], 0), ValueError, "top_n must be at least 1"),
        (
            lambda r: r.score_batch(["a"], []),
            ValueError,
            "1 queries came with 0 lists of documents",
        ),
    ],
)
def test_what_cannot_be_ranked_is_named(
    reranker: GPURerank, call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        call(reranker)
    assert message in str(caught.value)


def test_metadata_of_any_kind_stays(reranker: GPURerank) -> None:
    odd = {"list": [1, {"a": object()}], "none": None, "relevance_score": "mine", "n": 1.5}
    document = Document("memory", metadata=odd)
    (found,) = reranker.compress_documents([document], QUERY)
    assert document.metadata["relevance_score"] == "mine"
    assert type(found.metadata.pop("relevance_score")) is float
    assert found.metadata == {key: odd[key] for key in ("list", "none", "n")}


def test_nan_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"NaN or infinity for pair 1 \(1 such pairs here\)"):
        make(name="bert-nan").rerank("the", ["memory", "slow", "fast"])


def test_long_pairs_are_cut_with_one_warning_windowed_or_refused(
    make: Make, reference: Any
) -> None:
    pairs = [(QUERY, "the cpu " * 30), (QUERY, "memory"), (QUERY, "text " * 60 + "a fast gpu")]
    reranker = make()
    with pytest.warns(TruncationWarning, match="2 of 3 pairs are longer than the 32 tokens"):
        found = reranker.score(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(reranker.score(pairs), found), "said once"
    assert found == pytest.approx(reference(pairs), abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windowed = make(on_long="window").score(pairs)
    assert windowed[1] == pytest.approx(found[1], abs=1e-5)
    assert windowed[0] >= found[0] - 1e-5, "the first window is the cut pair, and the best counts"
    with pytest.raises(ValueError, match="pair 0 has 6"):
        make(on_long="error").score(pairs)
    with pytest.warns(TruncationWarning, match="than the 12 tokens"):
        short = make(max_length=12).score(pairs)
    assert short[1] == pytest.approx(found[1], abs=1e-5)


def test_windows_are_the_best_of_their_parts(make: Make, reference: Any) -> None:
    words = np.random.default_rng(1).choice(WORDS, 100).tolist()
    found = make(on_long="window").score([(QUERY, " ".join(words))])
    width = 32 - 3 - len(QUERY.split())
    step = width - width // 4
    parts = [(QUERY, " ".join(words[at : at + width])) for at in range(0, 100 - width + step, step)]
    assert found[0] == pytest.approx(reference(parts).max(), abs=1e-4)


def test_a_copy_shares_the_model_until_it_is_another(make: Make, tmp_path: Any) -> None:
    reranker = make()
    reranker.score([("a", "b")])
    narrow = reranker.model_copy(update={"top_n": 1})
    assert len(narrow.compress_documents(documents(), QUERY)) == 1
    assert narrow._loaded is reranker._loaded
    other = reranker.model_copy(update={"dtype": "bfloat16"})
    other.score([("a", "b")])
    assert other._loaded is not reranker._loaded
    again = pickle.loads(pickle.dumps(reranker))  # noqa: S301 - our own
    assert again._loaded.keeper.loaded is None
    assert np.array_equal(again.score([(QUERY, "memory")]), reranker.score([(QUERY, "memory")]))


def loaded(reranker: GPURerank) -> bool:
    return reranker._loaded.keeper.loaded is not None


def test_close_frees_and_the_next_use_loads(make: Make) -> None:
    with make() as reranker:
        first = reranker.score([(QUERY, "memory")])
        assert loaded(reranker)
    assert not loaded(reranker)
    assert np.array_equal(reranker.score([(QUERY, "memory")]), first)


def test_settings_are_checked() -> None:
    wrong: Any
    for wrong in ({"top_n": 0}, {"backend": "magic"}, {"activation": "relu"}, {"max_length": 3}):
        with pytest.raises(ValidationError):
            GPURerank(**wrong)
    with pytest.raises(ValidationError, match="the argument 'topn': say top_n="):
        GPURerank(topn=3)  # type: ignore[call-arg]
    assert GPURerank(model_name="mine").model == "mine"  # type: ignore[call-arg]
    assert "secret" not in repr(GPURerank(api_key="secret"))


class TestPlugs:
    """Where others expect a reranker."""

    @pytest.fixture
    def base(self) -> Any:
        store = InMemoryVectorStore.from_documents(documents(), DeterministicFakeEmbedding(size=8))
        return store.as_retriever(search_kwargs={"k": 7})

    def test_a_cross_encoder_of_langchain(self, reranker: GPURerank, base: Any) -> None:
        model = reranker.as_cross_encoder()
        assert isinstance(model, BaseCrossEncoder)
        found = model.score([(QUERY, "memory"), (QUERY, "a fast gpu")])
        assert all(type(score) is float for score in found)
        compressor = CrossEncoderReranker(model=model, top_n=2)
        retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=base)
        wanted = [TEXTS[place.index] for place in reranker.rerank(QUERY, TEXTS, 2)]
        assert [document.page_content for document in retriever.invoke(QUERY)] == wanted

    async def test_a_document_compressor(self, make: Make, base: Any) -> None:
        retriever = ContextualCompressionRetriever(
            base_compressor=make(top_n=2), base_retriever=base
        )
        found = retriever.invoke(QUERY)
        assert len(found) == 2
        assert await retriever.ainvoke(QUERY) == found

    async def test_it_works_inside_a_runnable(self, reranker: GPURerank) -> None:
        step: Runnable[dict[str, Any], Any] = RunnableLambda(
            lambda given: reranker.compress_documents(given["context"], given["question"])
        )
        given = {"question": QUERY, "context": documents()}
        assert step.invoke(given) == reranker.compress_documents(documents(), QUERY)
        assert await step.ainvoke(given) == step.invoke(given)

    async def test_a_rag_chain(self, make: Make, base: Any) -> None:
        chain = create_rag_chain(base, FakeListChatModel(responses=["yes"]), reranker=make(top_n=2))
        found = chain.invoke(QUERY)
        assert scores(found["context"]) == sorted(scores(found["context"]), reverse=True)
        assert len(found["context"]) == 2
        assert found["answer"] == "yes"
        assert await chain.ainvoke(QUERY) == found
        nothing = create_rag_chain(
            RunnableLambda(lambda _: []), FakeListChatModel(responses=["yes"]), reranker=make()
        )
        assert nothing.invoke(QUERY)["context"] == []
