"""The store on disk, as a LangChain user saves and loads it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric
from langchain_gpu.store.errors import StoreNotFoundError, WrongModelError
from tests.unit_tests.planes import COMPASS, Plane, store


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_saved_and_loaded(metric: Metric, tmp_path: Path) -> None:
    compass = store(*COMPASS, metric=metric)
    compass.delete(["id1"])
    compass.save_local(str(tmp_path / "store"))
    loaded = FAISSVectorStore.load_local(tmp_path / "store", Plane(), device="cpu")
    assert (loaded.metric, loaded.device.kind, len(loaded)) == (metric, "cpu", 3)
    assert loaded.similarity_search_with_score(
        "1 0.1", k=3
    ) == compass.similarity_search_with_score("1 0.1", k=3)
    assert loaded.add_texts(["4 4"], ids=["id9"]) == ["id9"]
    loaded.save_local(tmp_path / "store")
    again = FAISSVectorStore.load_local(tmp_path / "store", Plane())
    assert [document.id for document in again.iter_documents()] == ["id0", "id2", "id3", "id9"]


def test_a_moved_model_is_the_same_model_and_another_is_not(tmp_path: Path) -> None:
    FAISSVectorStore.from_texts(["1 0"], Plane("org/model")).save_local(tmp_path)
    moved = FAISSVectorStore.load_local(tmp_path, Plane("/home/model", turn=0.05))
    moved.save_local(tmp_path)
    FAISSVectorStore.load_local(tmp_path, Plane("/home/model", turn=1.0))  # the name is enough
    with pytest.raises(WrongModelError, match="'/home/model'.*'org/model'.*load it with"):
        FAISSVectorStore.load_local(tmp_path, Plane("org/model", turn=1.0))


def test_small_differences_do_not_add_up_from_save_to_save(tmp_path: Path) -> None:
    FAISSVectorStore.from_texts(["1 0"], Plane("0")).save_local(tmp_path)
    FAISSVectorStore.load_local(tmp_path, Plane("1", turn=0.1)).save_local(tmp_path)
    with pytest.raises(WrongModelError):
        FAISSVectorStore.load_local(tmp_path, Plane("2", turn=0.2))


def test_a_model_of_another_width_says_so(tmp_path: Path) -> None:
    FAISSVectorStore.from_texts(["1 0"], Plane("m")).save_local(tmp_path)
    with pytest.raises(WrongModelError, match="4 dimensions, the stored ones 2"):
        FAISSVectorStore.load_local(tmp_path, DeterministicFakeEmbedding(size=4))
    same_name = FAISSVectorStore.load_local(tmp_path, Plane("m"))
    with pytest.raises(ValueError, match="3 dimensions, the store has 2"):
        same_name.similarity_search("1 0 0")


def test_no_store_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="save_local"):
        FAISSVectorStore.load_local(tmp_path / "nothing", Plane())


def test_loading_knows_its_own_metric(tmp_path: Path) -> None:
    store("1 0").save_local(tmp_path)
    with pytest.raises(TypeError, match="metric"):
        FAISSVectorStore.load_local(tmp_path, Plane(), metric="l2")
    with pytest.raises(TypeError, match="allow_dangerous_deserialization"):
        FAISSVectorStore.load_local(tmp_path, Plane(), allow_dangerous_deserialization=True)


def test_a_save_whose_embedding_fails_loses_nothing(tmp_path: Path) -> None:
    class Down(Plane):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise ConnectionError("the server is down")

    held = FAISSVectorStore.from_embeddings([("a", [1.0, 0.0])], Down())
    with pytest.raises(ConnectionError):
        held.save_local(tmp_path)
    assert len(held) == 1
    assert list(tmp_path.iterdir()) == []


def test_threads_that_save_one_store_are_no_other_writers(tmp_path: Path) -> None:
    held = store("1 0", "0 1")
    held.save_local(tmp_path)
    ready = Barrier(8)

    def save() -> None:
        ready.wait()
        held.save_local(tmp_path)

    with ThreadPoolExecutor(8) as threads:
        for saved in [threads.submit(save) for _ in range(8)]:
            saved.result()
    assert len(FAISSVectorStore.load_local(tmp_path, Plane())) == 2
