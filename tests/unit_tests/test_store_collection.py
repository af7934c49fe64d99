"""A collection while threads add, replace, delete and search: no torn results."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.search import kinds
from langchain_gpu.search.route import Route
from langchain_gpu.store import folder as folders
from langchain_gpu.store.batch import Batch, check
from langchain_gpu.store.collection import Collection
from langchain_gpu.store.contracts import Hits, Near
from langchain_gpu.store.identity import Identity


def collection() -> Collection:
    return Collection(partial(kinds.get("flat").create, metric="l2"), Route("cpu").search)


def put(target: Collection, numbers: Any, version: int = 0) -> None:
    """Store n as the vector (n, version): the text says which, so a mixture shows."""
    texts = [f"{n} {version}" for n in numbers]
    batch = check(texts, [{"even": n % 2 == 0} for n in numbers], [f"id{n}" for n in numbers])
    target.put(batch, np.array([[n, version] for n in numbers], dtype=np.float32))


def query(*numbers: float) -> Any:
    return np.array([[number, 0] for number in numbers], dtype=np.float32)


def test_another_width_is_refused_and_changes_nothing() -> None:
    target = collection()
    put(target, range(3))
    with pytest.raises(ValueError, match="3 dimensions, the store has 2"):
        target.put(check(["a"]), np.ones((1, 3), dtype=np.float32))
    assert len(target) == 3


def test_a_failing_index_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target = collection()
    put(target, range(3))

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(target._index, "add", fail)
        with pytest.raises(MemoryError):
            put(target, range(2, 5), version=1)
    assert target.search(query(2), 1).documents.texts == ["2 0"]
    put(target, range(2, 5), version=1)
    assert len(target) == 5


def test_clear_forgets_the_width_but_no_row() -> None:
    target = collection()
    put(target, range(3))
    target.clear()
    nothing = Hits(Batch([], [], []), Near([], [], [0]))
    assert (len(target), target.dimension, target.search(query(1), 2)) == (0, None, nothing)
    target.put(check(["wide"]), np.ones((1, 5), dtype=np.float32))
    assert target._documents.rows().tolist() == [3]


def test_queries_of_a_width_that_was_cleared_are_refused() -> None:
    """They were checked before; another thread's vectors came in between."""
    target = collection()
    put(target, range(3))
    target.clear()
    target.put(check(["wide"]), np.ones((1, 5), dtype=np.float32))
    for search in (target.search, target.search_ids, target.candidates):
        with pytest.raises(ValueError, match="queries have 2 dimensions, the store has 5"):
            search(query(1), 2)


def test_without_queries_nothing_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror is made for them, and their width does not matter."""
    target = collection()
    put(target, range(3))
    monkeypatch.setattr(target, "_search", None)
    none = np.empty((0, 0), dtype=np.float32)
    assert target.search(none, 2).near.counts == []
    assert target.search_ids(none, 2) == ([], Near([], [], []))


def test_clear_gives_the_vectors_memory_back() -> None:
    """A search before must not keep them."""
    target = collection()
    put(target, range(3))
    target.search(query(1), 2)
    index: Any = weakref.ref(target.index)
    target.clear()
    gc.collect()
    assert index() is None


def test_an_emptied_collection_keeps_its_width() -> None:
    target = collection()
    put(target, range(3))
    assert target.delete(["id0", "id1", "id2", "id2", "other"]) == 3
    assert (len(target), target.dimension) == (0, 2)


def test_an_emptied_collection_holds_no_memory() -> None:
    target = collection()
    put(target, range(3))
    index = target.index
    assert index is not None
    alive = weakref.ref(index)
    del index
    target.delete(["id0", "id1", "id2"])
    assert alive() is None, "FAISS keeps the room of vectors that it removes"
    put(target, range(3, 6))
    assert target.search(query(4), 1).documents.texts == ["4 0"]


def test_no_code_of_users_runs_behind_the_lock() -> None:
    target = collection()
    put(target, range(4))

    def nosy(metadata: dict[str, Any]) -> bool:
        put(target, [9])
        assert target.get(["id9"])
        metadata.clear()
        return True

    assert target.search(query(1), 3, nosy).near.counts == [3]
    assert target.get(["id1"])[0].metadata == '{"even":false}'


def test_documents_that_go_while_a_filter_looks_are_not_found() -> None:
    target = collection()
    put(target, range(4))

    def deleting(metadata: dict[str, Any]) -> bool:
        target.delete(["id0"])
        return bool(metadata["even"])

    assert target.search(query(0), 4, deleting).documents.ids == ["id2"]


def read(target: Collection) -> None:
    """Search, and see that each hit is one version of one document, whole."""
    found, near = target.search(query(20, 120), 5)
    assert near.counts == [5, 5]
    assert len(set(found.ids[:5])) == len(set(found.ids[5:])) == 5
    asked = [20] * 5 + [120] * 5
    for number, id_, text, score in zip(asked, *found[:2], near.scores, strict=True):
        n, version = map(int, text.split())
        assert id_ == f"id{n}"
        assert score == (n - number) ** 2 + version**2
    hits, vectors = target.candidates(query(50), 3, lambda metadata: bool(metadata["even"]))
    said = [[float(word) for word in text.split()] for text in hits.documents.texts]
    assert said == vectors.tolist()


def write(target: Collection, first: int) -> None:
    for version in range(1, 8):
        put(target, range(first, first + 100, 3), version)
        target.delete([f"id{n}" for n in range(first + 60, first + 90, 2)])
        put(target, range(first + 60, first + 90, 2), version)


def save(target: Collection, folder: Path) -> None:
    """Save, and see that what was saved is whole too."""
    target.save(folder, Identity("m", None, (1.0, 0.0)))
    loaded = folders.load(
        folder,
        read_index=lambda path, _: kinds.get("flat").load(path, "l2"),
        accept=lambda _: None,
    )
    _, texts, _ = loaded.documents.columns()
    vectors = loaded.index.vectors(loaded.documents.rows())
    assert [" ".join(f"{number:.0f}" for number in vector) for vector in vectors] == texts


def test_readers_writers_and_a_saver_at_once(tmp_path: Path) -> None:
    target, done = collection(), threading.Event()
    put(target, range(200))

    def repeat(work: Callable[..., None], *arguments: Any) -> None:
        while not done.is_set():
            work(target, *arguments)

    with ThreadPoolExecutor(11) as pool:
        others = [pool.submit(repeat, read) for _ in range(8)]
        others.append(pool.submit(repeat, save, tmp_path))
        writers = [pool.submit(write, target, first) for first in (0, 100)]
        wait(writers)
        done.set()
    for future in [*others, *writers]:
        future.result()  # raises what the thread raised
    assert len(target) == 200
