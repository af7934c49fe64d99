"""`create_reranking_retriever`: anybody's retriever and compressor, and the standard suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_community.retrievers import TFIDFRetriever
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import Field

from langchain_gpu import FAISSVectorStore, GPURerank, create_reranking_retriever
from langchain_gpu.rag.retrievers import RerankingRetriever

TEXTS = ["the gpu", "a cpu is slow", "memory", "one batch", "two models", "fast text", "token"]


class Longest(BaseDocumentCompressor):
    """Puts long documents first; what comes to it is remembered."""

    seen: list[int] = Field(default_factory=list)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        assert documents, "nothing to rank"
        self.seen.append(len(documents))
        return sorted(documents, key=lambda each: -len(each.page_content))


class LongestFew(Longest):
    """Keeps a few, as most rerankers do."""

    top_n: int = 2

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        return super().compress_documents(documents, query, callbacks)[: self.top_n]


class Shelf(BaseRetriever):
    """Has its own idea of how many."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return self.documents


def documents() -> list[Document]:
    return [Document(text, metadata={"n": n}) for n, text in enumerate(TEXTS)]


@pytest.fixture
def store() -> FAISSVectorStore:
    return FAISSVectorStore.from_documents(documents(), DeterministicFakeEmbedding(size=8))


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def build(self, tiny_reranker: Callable[[str], str]) -> None:
        self._model = tiny_reranker("bert")

    @property
    def retriever_constructor(self) -> type[RerankingRetriever]:
        return RerankingRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        store = FAISSVectorStore.from_texts(TEXTS, DeterministicFakeEmbedding(size=8))
        reranker = GPURerank(model=self._model, device="cpu", backend="torch")
        return {"base": store.as_retriever(), "reranker": reranker}

    @property
    def retriever_query_example(self) -> str:
        return "the gpu"


def test_the_base_is_asked_for_fetch_k(store: FAISSVectorStore) -> None:
    base = store.as_retriever(k=1, search_kwargs={"filter": {"n": {"$gt": 0}}})
    reranker = Longest()
    retriever = create_reranking_retriever(base, reranker, 5)
    found = retriever.invoke("the gpu")
    assert len(found) == 5
    assert [len(each.page_content) for each in found] == sorted(
        (len(each.page_content) for each in found), reverse=True
    )
    assert all(each.metadata["n"] > 0 for each in found), "its own filter stays"
    retriever.invoke("the gpu", fetch_k=3)
    assert reranker.seen == [5, 3]
    assert base.k == 1
    assert base.search_kwargs == {"filter": {"n": {"$gt": 0}}}


def test_a_base_with_a_config_or_retries_is_asked_for_fetch_k_too(store: FAISSVectorStore) -> None:
    plain = store.as_retriever(k=1)
    for base in (plain.with_config(tags=["x"]), plain.with_retry(), plain.bind()):
        reranker = Longest()
        found = create_reranking_retriever(base, reranker, 5, k=4).invoke("gpu")
        assert (reranker.seen, len(found)) == ([5], 4)
    assert plain.k == 1


def test_what_else_is_asked_reaches_the_base(store: FAISSVectorStore) -> None:
    retriever = create_reranking_retriever(store.as_retriever(), Longest())
    assert [each.metadata["n"] for each in retriever.invoke("a", filter={"n": 4})] == [4]


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
def test_any_vector_store(search_type: str) -> None:
    many = [Document(f"text {n}") for n in range(60)]
    store = InMemoryVectorStore.from_documents(many, DeterministicFakeEmbedding(size=8))
    reranker = Longest()
    base = store.as_retriever(search_type=search_type, search_kwargs={"k": 2})
    create_reranking_retriever(base, reranker, 40).invoke("text")
    assert reranker.seen == [40]
    assert base.search_kwargs == {"k": 2}


def test_retrievers_that_take_no_other_arguments() -> None:
    """Those with a field `k`, and those nobody can tell how many: their first documents count."""
    pytest.importorskip("sklearn")
    reranker = Longest()
    base = TFIDFRetriever.from_texts(TEXTS, k=1)
    create_reranking_retriever(base, reranker, 4).invoke("memory")
    create_reranking_retriever(Shelf(documents=documents()), reranker, 3).invoke("memory")
    create_reranking_retriever(RunnableLambda(lambda _: documents()), reranker, 6).invoke("memory")
    assert reranker.seen == [4, 3, 6]
    assert base.k == 1


def test_k_cuts_and_widens_what_the_reranker_keeps() -> None:
    base = Shelf(documents=documents())
    few = LongestFew()
    assert len(create_reranking_retriever(base, few).invoke("a")) == 2
    assert len(create_reranking_retriever(base, few, k=5).invoke("a")) == 5
    assert len(create_reranking_retriever(base, few, k=5).invoke("a", k=1)) == 1
    assert len(create_reranking_retriever(base, Longest(), 2, k=4).invoke("a")) == 4
    assert few.top_n == 2


@pytest.mark.parametrize("wrong", [{"k": 0}, {"fetch_k": 0}])
def test_numbers_below_one_are_refused(wrong: Any) -> None:
    base = Shelf(documents=documents())
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        create_reranking_retriever(base, Longest(), **wrong)
    with pytest.raises(ValueError, match="must be at least 1, not 0"):
        create_reranking_retriever(base, Longest()).invoke("a", **wrong)


async def test_nothing_found_is_nothing_to_rank() -> None:
    retriever = create_reranking_retriever(Shelf(documents=[]), Longest())
    assert retriever.invoke("a") == []
    assert await retriever.ainvoke("a") == []


async def test_async_is_sync(store: FAISSVectorStore, tiny_reranker: Callable[[str], str]) -> None:
    reranker = GPURerank(model=tiny_reranker("bert"), device="cpu", backend="torch", top_n=4)
    retriever = create_reranking_retriever(store.as_retriever(), reranker, 6)
    wanted = retriever.invoke("the gpu")
    assert len(wanted) == 4
    assert await retriever.ainvoke("the gpu") == wanted
    assert retriever.batch(["the gpu", "memory"])[0] == wanted
    scores = [each.metadata["relevance_score"] for each in wanted]
    assert scores == sorted(scores, reverse=True)


def test_a_copy_with_another_top_n_has_the_same_model(tiny_reranker: Callable[[str], str]) -> None:
    loads = 0

    class Counted(GPURerank):
        def _config(self) -> Any:
            nonlocal loads
            loads += self._loaded.keeper.loaded is None
            return super()._config()

    reranker = Counted(model=tiny_reranker("bert"), device="cpu", backend="torch")
    retriever = create_reranking_retriever(Shelf(documents=documents()), reranker, k=5)
    assert len(retriever.invoke("a")) == len(retriever.invoke("b")) == 5
    assert loads == 1


def test_runs_of_base_are_children(store: FAISSVectorStore) -> None:
    class Runs(BaseCallbackHandler):
        parents: list[Any] = []  # noqa: RUF012 - one handler in this test

        def on_retriever_start(self, *_: Any, parent_run_id: Any = None, **__: Any) -> None:
            self.parents.append(parent_run_id)

    runs = Runs()
    create_reranking_retriever(store.as_retriever(), Longest()).invoke("a", {"callbacks": [runs]})
    assert len(runs.parents) == 2
    assert runs.parents[0] is None
    assert runs.parents[1] is not None


def test_it_is_a_runnable(store: FAISSVectorStore) -> None:
    retriever = create_reranking_retriever(store.as_retriever(), Longest(), k=1)
    chain = retriever | RunnableLambda(lambda found: found[0].page_content)
    assert chain.invoke("a") == max(TEXTS, key=len)
