"""Eight readers and two writers on one store: every answer is of one moment, and whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_gpu import FAISSVectorStore
from langchain_gpu.search import bm25
from langchain_gpu.search.words import split

STEADY = range(5)  # never touched
VERSIONS = 12
GROUPS = (range(1000, 1010), range(3000, 3010))  # one for each writer; each call writes all of one
COMING = (range(1500, 1530), range(3500, 3530))  # come and go


class Places(Embeddings):
    """`n3 v2` lies at (3, 2)."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return list(map(self.embed_query, texts))

    def embed_query(self, text: str) -> list[float]:
        number, version, *_ = text.split()
        return [float(number[1:]), float(version[1:])]


def write(store: FAISSVectorStore, numbers: range, version: int) -> None:
    store.add_texts(
        [f"n{n} v{version} everywhere" for n in numbers],
        [{"n": n, "version": version} for n in numbers],
        ids=[f"id{n}" for n in numbers],
    )


def look(found: list[Document]) -> list[tuple[int, int]]:
    """Return (number, version) of documents whose id, text and metadata are of one write."""
    seen = []
    for document in found:
        n, version = document.metadata["n"], document.metadata["version"]
        assert document.id == f"id{n}"
        assert document.page_content == f"n{n} v{version} everywhere"
        assert 0 <= version <= VERSIONS
        seen.append((n, version))
    assert len({n for n, _ in seen}) == len(seen), "a document twice, in two versions"
    return seen


def near(store: FAISSVectorStore) -> None:
    """Scores are of the vectors that were written, and a call's documents change together."""
    for number in (3, 1004, 3520):
        found = store.similarity_search_with_score(f"n{number} v0", k=10)
        for (n, version), (_, score) in zip(
            look([document for document, _ in found]), found, strict=True
        ):
            assert score == (n - number) ** 2 + version**2
    for group in GROUPS:
        hits = look(store.similarity_search(f"n{group[4]} v0", k=len(group)))
        assert {n for n, _ in hits} == set(group)
        assert len({version for _, version in hits}) == 1
    together = look(store.get_by_ids([f"id{n}" for n in GROUPS[0]]))
    assert len(together) == len(GROUPS[0])
    assert len({version for _, version in together}) == 1


def filtered(store: FAISSVectorStore) -> None:
    where = {"n": {"$in": [2, *COMING[0]]}}
    for found in (
        store.similarity_search("n1500 v0", 50, filter=where),
        store.hybrid_search("n1500 v0 everywhere", 50, filter=where),
    ):
        numbers = {n for n, _ in look(found)}
        assert 2 in numbers
        assert numbers <= {2, *COMING[0]}
    found = store.max_marginal_relevance_search("n3 v0", 5, fetch_k=20, filter=where)
    assert 2 in {n for n, _ in look(found)}


def worded(store: FAISSVectorStore) -> None:
    """A word that one document has finds it, whatever comes and goes."""
    for n in STEADY:
        found = store.hybrid_search_with_score(f"n{n} v0", 3, weight=1.0, fusion="scores")
        assert look([document for document, _ in found])[0] == (n, 0)
        assert found[0][1] == 1.0
    found = store.hybrid_search_with_score("n1004 v3 everywhere", 20)
    look([document for document, _ in found])
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)


def listed(store: FAISSVectorStore) -> None:
    seen = dict(look(list(store.iter_documents())))
    assert set(STEADY) <= set(seen)
    for group in GROUPS:
        assert len({seen[n] for n in group}) == 1


def change(store: FAISSVectorStore, writer: int) -> None:
    for version in range(1, VERSIONS + 1):
        write(store, GROUPS[writer], version)
        write(store, COMING[writer], version)
        store.delete([f"id{n}" for n in COMING[writer][version % 3 :: 2]])


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_every_answer_is_of_one_moment(kind: str) -> None:
    store = FAISSVectorStore(Places(), metric="l2", index=kind, device="cpu")
    write(store, STEADY, 0)
    for numbers in GROUPS:
        write(store, numbers, 0)
    done = threading.Event()

    def repeat(read: Callable[[FAISSVectorStore], None]) -> int:
        times = 0
        while not done.is_set() or not times:
            read(store)
            times += 1
        return times

    reads: list[Callable[[FAISSVectorStore], None]] = [near, filtered, worded, listed]
    if kind == "hnsw":
        reads[0] = filtered  # a graph promises neighbors, but not all of them
    with ThreadPoolExecutor(10) as pool:
        readers = [pool.submit(repeat, read) for read in reads * 2]
        writers = [pool.submit(change, store, writer) for writer in (0, 1)]
        wait(writers)
        done.set()
    for writing in writers:
        writing.result()  # raises what the thread raised
    for reading in readers:
        assert reading.result() > 0

    expected: dict[int, int] = dict.fromkeys(STEADY, 0)
    for writer in (0, 1):
        gone = COMING[writer][VERSIONS % 3 :: 2]
        expected |= dict.fromkeys([*GROUPS[writer], *COMING[writer]], VERSIONS)
        expected = {n: version for n, version in expected.items() if n not in gone}
    assert dict(look(list(store.iter_documents()))) == expected
    everything: list[Any] = store.hybrid_search("n3 v12 everywhere", 1000, fusion="rrf")
    assert set(look(everything)) == set(expected.items())


def test_a_first_count_of_words_holds_no_writer_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document comes while all others are counted; the search that counts finds it."""
    store = FAISSVectorStore(Places(), metric="l2", device="cpu")
    write(store, range(50), 0)
    added = threading.Event()

    def slow(text: str) -> list[str]:
        if text.startswith("n20 ") and not added.is_set():
            adding = threading.Thread(target=write, args=(store, range(77, 78), 0), daemon=True)
            adding.start()
            adding.join(60)
            assert not adding.is_alive(), "the writer waits for the count"
            added.set()
        return split(text)

    monkeypatch.setattr(bm25, "split", slow)
    assert look(store.hybrid_search("n77 v0", 1, weight=1.0)) == [(77, 0)]
    assert added.is_set()
