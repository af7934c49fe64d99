"""The store with a real model: right answers, and the model known again where it moved."""

from __future__ import annotations

from pathlib import Path

import pytest

from langchain_gpu import FAISSVectorStore, GPUEmbeddings
from langchain_gpu.models.resolve import resolve
from langchain_gpu.search.embed import SupportsArrays

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [
    "The capital of France is Paris.",
    "Cats are small carnivorous mammals.",
    "The Python language was made by Guido van Rossum.",
]


@pytest.mark.models
def test_a_moved_model_finds_the_same(tmp_path: Path) -> None:
    embedding = GPUEmbeddings(model=MODEL, device="cpu", dtype="float32")
    assert isinstance(embedding, SupportsArrays)
    store = FAISSVectorStore.from_texts(TEXTS, embedding)
    found = store.similarity_search_with_score("Who invented Python?", k=3)
    assert found[0][0].page_content == TEXTS[2]
    store.save_local(tmp_path / "store")

    (tmp_path / "elsewhere").symlink_to(resolve(MODEL).path, target_is_directory=True)
    moved = GPUEmbeddings(model=str(tmp_path / "elsewhere"), device="cpu")
    loaded = FAISSVectorStore.load_local(tmp_path / "store", moved)
    again = loaded.similarity_search_with_score("Who invented Python?", k=3)
    assert [document for document, _ in again] == [document for document, _ in found]
    assert [score for _, score in again] == pytest.approx([score for _, score in found], abs=0.02)


@pytest.mark.models
def test_many_queries_are_embedded_at_once_and_find_the_same() -> None:
    forwards: list[object] = []
    embedding = GPUEmbeddings(model=MODEL, device="cpu", dtype="float32", on_event=forwards.append)
    store = FAISSVectorStore.from_texts(TEXTS, embedding)
    queries = ["Who invented Python?", "capital city", "felines"]
    alone = [store.similarity_search(query, k=1)[0] for query in queries]
    forwards.clear()
    found = store.similarity_search_many(queries, k=1)
    assert [hits[0][0] for hits in found] == alone
    assert len(forwards) == 1
