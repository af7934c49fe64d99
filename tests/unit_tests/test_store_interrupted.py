"""Ctrl-C while vectors come or go: it is raised when FAISS is done, and tears nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.search import kinds
from langchain_gpu.search.route import Route
from langchain_gpu.store.batch import check
from langchain_gpu.store.collection import Collection
from langchain_gpu.store.identity import Identity

KINDS: dict[str, Any] = {"flat": {}, "fp16": {}, "hnsw": {}, "ivf_flat": {"train_size": 40}}
REMOVING = [kind for kind in KINDS if kind != "hnsw"]  # a graph marks, which is Python's work


def made(kind: str) -> Collection:
    create = kinds.get(kind, **KINDS[kind]).create
    target = Collection(partial(create, metric="l2"), Route("cpu").search)
    put(target, range(60))
    put(target, range(60, 100))
    return target


def put(target: Collection, numbers: Any, version: int = 0) -> None:
    """Store n as the vector (n, version), and a text that says so."""
    batch = check([f"{n} {version}" for n in numbers], None, [f"id{n}" for n in numbers])
    target.put(batch, np.array([[n, version] for n in numbers], dtype=np.float32))


@contextmanager
def interrupted(target: Collection, name: str) -> Iterator[None]:
    """Have a method of FAISS's own be followed by Ctrl-C, and see that it is raised."""
    index: Any = target.index
    real = getattr(index._body._index, name)

    def followed(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index._body._index, name, followed, raising=False)
        with pytest.raises(KeyboardInterrupt):
            yield


def whole(target: Collection) -> set[str]:
    """See that each document is found at its own vector; return the texts."""
    batch, vectors = target.export()
    assert vectors is not None
    assert [f"{x:g} {y:g}" for x, y in vectors.tolist()] == batch.texts
    assert len(target) == len(batch.texts) == len(set(batch.ids))
    found, near = target.search(vectors, 2)
    first = [end - count for end, count in zip(accumulate(near.counts), near.counts, strict=True)]
    assert [found.texts[at] for at in first] == batch.texts
    assert [found.ids[at] for at in first] == batch.ids
    assert target.search(vectors[:1], 1000).near.counts == [len(target)]
    return set(batch.texts)


BEFORE = {f"{n} 0" for n in range(100)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", [range(90, 97), range(200, 207)])
def test_an_add_that_is_interrupted_adds_nothing(kind: str, numbers: range, tmp_path: Path) -> None:
    target = made(kind)
    with interrupted(target, "add_with_ids" if kind == "ivf_flat" else "add"):
        put(target, numbers, version=5)
    assert whole(target) == BEFORE
    put(target, range(300, 307), version=9)  # as many: none of the others may stand for these
    assert whole(target) == BEFORE | {f"{n} 9" for n in range(300, 307)}
    target.save(tmp_path, Identity(None, None, (0.0, 0.0)))


@pytest.mark.parametrize("kind", REMOVING)
def test_what_replaces_others_is_there_once_they_are_gone(kind: str) -> None:
    target = made(kind)
    with interrupted(target, "remove_ids"):
        put(target, range(10, 15), version=5)
    replaced = BEFORE - {f"{n} 0" for n in range(10, 15)} | {f"{n} 5" for n in range(10, 15)}
    assert whole(target) == replaced
    put(target, [300])
    assert whole(target) == replaced | {"300 0"}


@pytest.mark.parametrize("kind", REMOVING)
def test_what_an_interrupted_delete_removed_is_gone(kind: str) -> None:
    target = made(kind)
    with interrupted(target, "remove_ids"):
        target.delete(["id3", "id50"])
    assert whole(target) == BEFORE - {"3 0", "50 0"}


@pytest.mark.parametrize("kind", REMOVING)
def test_what_could_not_be_replaced_stays(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = made(kind)
    index: Any = target.index

    def fail(*_: Any) -> None:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(index._body._index, "remove_ids", fail, raising=False)
    with pytest.raises(MemoryError):
        put(target, range(10, 15), version=5)
    assert whole(target) == BEFORE
