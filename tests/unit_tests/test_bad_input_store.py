"""Bad input of every sort is refused with its name, before anything is stored or lost."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search.base import Metric, VectorError
from langchain_gpu.store import folder as folders
from langchain_gpu.store.errors import (
    DamagedStoreError,
    DocumentError,
    StoreNotFoundError,
    StoreVersionError,
)

TEXTS = ["1 0 east", "0 1 north", "-1 0 west"]
Snapshot = list[tuple[str | None, str, dict[str, Any]]]


class Plane(Embeddings):
    """The first words are the vector, as many as are numbers."""

    def __init__(self) -> None:
        self.asked = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += len(texts)
        return list(map(self.embed_query, texts))

    def embed_query(self, text: str) -> list[float]:
        if text.startswith("The quick"):
            return [1.0, 2.0]
        numbers = []
        for word in text.split():
            try:
                numbers.append(float(word))
            except ValueError:
                break
        return numbers


def store(metric: Metric = "cosine", **options: Any) -> FAISSVectorStore:
    metadatas = [{"n": n} for n in range(3)]
    return FAISSVectorStore.from_texts(
        TEXTS, Plane(), metadatas, ids=list("abc"), metric=metric, **options
    )


def held(target: FAISSVectorStore) -> Snapshot:
    return [(d.id, d.page_content, d.metadata) for d in target.iter_documents()]


def unchanged(target: FAISSVectorStore, before: Snapshot) -> None:
    """Documents, vectors and words are what they were."""
    assert held(target) == before
    assert len(target) == len(before)
    assert {d.id for d in target.similarity_search("1 0", 99)} == {id_ for id_, _, _ in before}
    assert {d.id for d in target.hybrid_search("1 0 new", 99)} == {id_ for id_, _, _ in before}


NAN, INF = math.nan, math.inf
VECTORS: list[tuple[Metric, list[Any], str]] = [
    ("cosine", [[1, 0], [NAN, 0]], r"document 1 \(id 'y'\) holds NaN"),
    ("l2", [[1, 0], [INF, 0]], r"document 1 \(id 'y'\) holds NaN, infinity"),
    ("ip", [[1, 0], [0, -INF]], r"document 1 \(id 'y'\) holds NaN, infinity"),
    ("ip", [[1, 0], [1e39, 0]], "numbers too large for float32"),
    ("cosine", [[1, 0], [0, 0]], r"document 1 \(id 'y'\) has length 0.*metric=\"ip\" or \"l2\""),
    ("cosine", [[1, 0, 0], [0, 1, 0]], r"document 0 \(id 'a'\) has 3 dimensions, the store has 2"),
    ("cosine", [[1, 0], [1, 0, 0]], r"document 1 \(id 'y'\) has 3 dimensions, document 0.*has 2"),
    ("cosine", [[1, 0], []], "document 1.*0 dimensions"),
    ("cosine", [[1, 0], "up"], "document 1.*not a number"),
    ("cosine", [[1, 0], None], "document 1"),
]


@pytest.mark.parametrize(("metric", "vectors", "message"), VECTORS)
def test_bad_vectors_are_refused_and_nothing_is_stored(
    metric: Metric, vectors: list[Any], message: str
) -> None:
    target = store(metric)
    before = held(target)
    with pytest.raises(VectorError, match=message):
        target.add_embeddings(zip(["new one", "new two"], vectors, strict=True), ids=["a", "y"])
    unchanged(target, before)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([NAN, 0], "query 0 holds NaN"),
        ([INF, 0], "query 0 holds NaN, infinity"),
        ([0, 0], "query 0 has length 0"),
        ([1, 0, 0], "query 0 has 3 dimensions, the store has 2"),
        ([[1, 0]], "vectors must be rows of numbers"),
        ("up", "query 0"),
    ],
)
def test_queries_by_vector(query: Any, message: str) -> None:
    target = store()
    for search in (
        target.similarity_search_by_vector,
        target.max_marginal_relevance_search_by_vector,
    ):
        with pytest.raises(VectorError, match=message):
            search(query)


@pytest.mark.parametrize("query", ["nan 0", "0 0", "1 0 0"])
@pytest.mark.parametrize("kind", ["similarity", "mmr", "hybrid"])
def test_queries_whose_vector_is_bad(query: str, kind: str) -> None:
    with pytest.raises(VectorError, match="query 0"):
        store().search(query, kind)


def test_a_zero_vector_is_fine_where_it_has_a_meaning() -> None:
    for metric in ("ip", "l2"):
        target = store(metric)
        target.add_texts(["0 0"], ids=["zero"])
        assert "zero" in {d.id for d in target.similarity_search("0 0", 4)}


WAYS: list[Callable[..., Any]] = [
    lambda target, k: target.similarity_search("1 0", k),
    lambda target, k: target.similarity_search_with_score("1 0", k),
    lambda target, k: target.similarity_search_many(["1 0"], k),
    lambda target, k: target.similarity_search_by_vector([1, 0], k),
    lambda target, k: target.similarity_search_ids_by_vectors([[1, 0]], k)[0],
    lambda target, k: target.similarity_search_with_relevance_scores("1 0", k),
    lambda target, k: target.max_marginal_relevance_search("1 0", k),
    lambda target, k: target.hybrid_search("1 0", k),
    lambda target, k: target.as_retriever(search_type="hybrid", k=k).invoke("1 0"),
    lambda target, k: target.as_retriever(k=k).invoke("1 0"),
]


@pytest.mark.parametrize("search", WAYS)
@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(search: Callable[..., Any], k: int) -> None:
    for target in (store(), FAISSVectorStore(Plane())):
        with pytest.raises(ValueError, match=f"k must be at least 1, not {k}"):
            search(target, k)


@pytest.mark.parametrize("search", WAYS)
@pytest.mark.parametrize("index", ["flat", "sq8", "hnsw", "ivf_flat"])
def test_k_above_the_count_finds_all(search: Callable[..., Any], index: str) -> None:
    found = search(store(index=index), 10**6)
    assert len(found[0] if isinstance(found[0], list) else found) == 3


@pytest.mark.parametrize("k", [1.5, "2", None])
def test_k_that_is_no_integer(k: Any) -> None:
    for kind in ("similarity", "hybrid"):
        with pytest.raises(TypeError, match="k must be a whole number"):
            store().search("1 0", kind, k=k)


@pytest.mark.parametrize("kind", ["similarity", "mmr", "hybrid"])
@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"n": {"$near": 1}}, ValueError, r"unknown filter operator '\$near'; known: \$eq"),
        ({"$xor": [{"n": 1}]}, ValueError, r"unknown filter operator '\$xor'"),
        ({"n": {"$in": 1}}, TypeError, r"'\$in' takes a list, not int"),
        ({"n": [1, 2]}, ValueError, r"write \{'\$in'"),
        ([("n", 1)], TypeError, "a dictionary or a callable, not list"),
        ({1: 1}, TypeError, "names of fields, not int"),
    ],
)
def test_bad_filters_are_refused_by_every_search(
    kind: str, where: Any, error: type[Exception], message: str
) -> None:
    for target in (store(), FAISSVectorStore(Plane())):
        with pytest.raises(error, match=message):
            target.search("1 0", kind, filter=where)
    with pytest.raises(error, match=message):
        store().iter_documents(where)


def itself() -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    return metadata


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"when": object()}, "document 1 is not JSON at key 'when' \\(object\\)"),
        ({"pair": (1, 2)}, "at key 'pair' \\(tuple\\): JSON would change it; keep str, int"),
        ({"n": NAN}, "at key 'n' \\(float\\)"),
        ({"n": np.float32(NAN)}, "at key 'n' \\(float32\\)"),
        ({"n": np.zeros(2)}, "at key 'n' \\(ndarray\\)"),
        ({"b": b"bytes"}, "at key 'b' \\(bytes\\)"),
        ({1: "one"}, "has the key 1, which is not a string"),
        ({"deep": {2: "two"}}, "at key 'deep'"),
        (itself(), "at key 'self'"),
        ("metadata", "document 1 is a str, not a dictionary"),
    ],
)
def test_bad_metadata_is_refused_before_anything_is_embedded(metadata: Any, message: str) -> None:
    target = store()
    before, plane = held(target), target.embeddings
    assert isinstance(plane, Plane)
    asked = plane.asked
    with pytest.raises(DocumentError, match=message):
        target.add_texts(["1 1 new", "1 2 new"], [{"n": 5}, metadata], ids=["a", "y"])
    assert plane.asked == asked, "embedded what could not be stored"
    unchanged(target, before)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([7, "y"], TypeError, "id 0 is int, not str: 7"),
        (["x", b"y"], TypeError, "id 1 is bytes, not str"),
        (["x", "x"], DocumentError, "'x' appears twice in one call, for documents 0 and 1"),
        (["x"], DocumentError, "2 texts came with 1 ids"),
        ("xy", TypeError, "a list is needed, not a single str"),
    ],
)
def test_bad_ids_are_refused_and_nothing_is_stored(
    ids: Any, error: type[Exception], message: str
) -> None:
    target = store()
    before = held(target)
    with pytest.raises(error, match=message):
        target.add_texts(["1 1 new", "1 2 new"], ids=ids)
    unchanged(target, before)


@pytest.mark.parametrize("ids", [[7], ["a", None], "a", [["a"]]])
def test_bad_ids_to_delete_or_get_are_refused(ids: Any) -> None:
    target = store()
    before = held(target)
    for ask in (target.delete, target.get_by_ids):
        with pytest.raises(TypeError, match="not str|not a single str"):
            ask(ids)
    unchanged(target, before)


def test_a_document_that_has_no_text() -> None:
    target = store()
    before = held(target)
    nothing: Any = None
    bad = Document.model_construct(page_content=nothing, metadata={}, id="x", type="Document")
    with pytest.raises(TypeError, match="text 1 is NoneType"):
        target.add_documents([Document("1 1"), bad])
    unchanged(target, before)


def saved(folder: Path, *more: str) -> FAISSVectorStore:
    target = store()
    target.add_texts(more)
    target.save_local(folder)
    return target


def load(folder: Path) -> FAISSVectorStore:
    return FAISSVectorStore.load_local(folder, Plane())


@pytest.mark.parametrize("size", [0, 1, 40, -1])
def test_a_truncated_index(size: int, tmp_path: Path) -> None:
    saved(tmp_path)
    (path,) = tmp_path.glob("index-*.faiss")
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    message = f"{path.name} has {len(whole[:size])} bytes, {len(whole)} were written"
    with pytest.raises(DamagedStoreError, match=message):
        load(tmp_path)


def test_an_index_whose_bytes_were_changed(tmp_path: Path) -> None:
    saved(tmp_path)
    (path,) = tmp_path.glob("index-*.faiss")
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedStoreError, match="its SHA-256 differs.*restore the folder"):
        load(tmp_path)


def test_a_manifest_of_another_store(tmp_path: Path) -> None:
    saved(tmp_path / "one")
    saved(tmp_path / "two", "1 1 more")
    manifest = "manifest.json"
    (tmp_path / "one" / manifest).write_bytes((tmp_path / "two" / manifest).read_bytes())
    with pytest.raises(DamagedStoreError, match="were written"):
        load(tmp_path / "one")


@pytest.mark.parametrize("name", ["../two/index-1.faiss", "/dev/zero", "index-1.faiss/../x", ""])
def test_a_manifest_that_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    saved(tmp_path / "one")
    saved(tmp_path / "two")
    path = tmp_path / "one" / "manifest.json"
    path.write_text(path.read_text().replace("index-1.faiss", name))
    with pytest.raises(DamagedStoreError, match="names the file.*only 'index-1.faiss' may stand"):
        load(tmp_path / "one")


def test_a_newer_version(tmp_path: Path) -> None:
    target = saved(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": ', '"format_version": 9'))
    before = path.read_bytes()
    for attempt in (load, target.save_local):
        with pytest.raises(StoreVersionError, match="pip install --upgrade langchain-gpu"):
            attempt(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", ["index", "documents", "manifest"])
def test_a_full_disk(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that finds no room fails; the store that was there stays, and so does this one."""
    target = saved(tmp_path)
    before = held(target)
    target.add_texts(["1 1 more"], ids=["more"])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    if step == "index":
        monkeypatch.setattr("langchain_gpu.search.kinds.index.FaissIndex.save", full)
    elif step == "documents":
        monkeypatch.setattr(folders, "write_lines", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        target.save_local(tmp_path)
    monkeypatch.undo()
    assert held(load(tmp_path)) == before
    assert len(list(tmp_path.glob("*-2.*"))) == 0, "what could not be finished takes no room"
    target.save_local(tmp_path)
    assert len(load(tmp_path)) == 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    target = saved(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            target.save_local(tmp_path)
        assert held(load(tmp_path)) == held(target)
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_takes_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a read-only file system, for root too."""
    target = saved(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    opened = Path.open

    def refuse(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if self.parent == tmp_path and set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system", str(self))
        return opened(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="Read-only file system"):
        target.save_local(tmp_path)
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: after[name] for name in before} == before
    assert held(load(tmp_path)) == held(target)


def test_a_linked_folder_works_and_a_linked_file_is_noticed(tmp_path: Path) -> None:
    """A link to a folder is that folder; a manifest's file may be no link out of it unnoticed."""
    target = saved(tmp_path / "real")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real", target_is_directory=True)
    assert held(load(link)) == held(target)
    target.save_local(link)
    assert held(load(tmp_path / "real")) == held(target)

    saved(tmp_path / "other", "1 1 more")
    (path,) = (tmp_path / "real").glob("index-*.faiss")
    (other,) = (tmp_path / "other").glob("index-*.faiss")
    path.unlink()
    path.symlink_to(other)
    with pytest.raises(DamagedStoreError, match="were written"):
        load(link)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DamagedStoreError, match="missing or unreadable"):
        load(link)
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreNotFoundError):
        load(tmp_path / "loose")


@pytest.mark.parametrize(
    "options",
    [{"index": "magic"}, {"metric": "dot"}, {"index": "flat", "nprobe": 4}, {"nprobe": 0}],
)
def test_bad_constructor_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown|means nothing|at least 1"):
        FAISSVectorStore(Plane(), **options)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([Document("1 1 both"), "1 0 text"], "document 1 is str, not Document; add_texts takes"),
        ("text", "document 0 is str"),
        (None, "must be a list of Document, not None"),
    ],
)
async def test_what_is_no_document_is_named(documents: Any, message: str) -> None:
    target = store()
    before = held(target)
    with pytest.raises(TypeError, match=message):
        target.add_documents(documents)
    with pytest.raises(TypeError, match=message):
        await target.aadd_documents(documents)
    with pytest.raises(TypeError, match=message):
        FAISSVectorStore.from_documents(documents, Plane())
    assert held(target) == before
