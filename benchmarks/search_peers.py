"""Who searches: FAISS itself, langchain-community's store, and ours, behind the same calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_gpu import FAISSVectorStore

Vectors = NDArray[np.float32]  # rows of length 1

RAW, COMMUNITY, OURS = "FAISS", "community FAISS", "FAISSVectorStore"
NAMES = (RAW, COMMUNITY, OURS)
IDS = "FAISSVectorStore, ids"  # as FAISS returns numbers: no documents are made
WORDS = 70  # of a text


class Given(Embeddings):
    """Vectors that are there already: a text ends with the number of its own."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def embed_to_array(self, texts: Sequence[str]) -> Vectors:
        """Return [texts, dimension]."""
        return self.vectors[[_number(text) for text in texts]]

    embed_queries_to_array = embed_to_array

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return lists."""
        found: list[list[float]] = self.embed_to_array(texts).tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Return a list."""
        return self.embed_documents([text])[0]


def _number(text: str) -> int:
    last = text.rpartition(" ")[2]
    return int(last) if last.isdecimal() else 0


def make_vectors(count: int, dimension: int, seed: int) -> Vectors:
    """Return vectors that lie in clusters, as those of texts do. [count, dimension], length 1.

    A thousand centers, and around each a cloud of 32 directions. Of one seed the first ones are the
    same for every count, so that queries can be drawn beside documents.
    """
    shape = np.random.default_rng(0)
    centers = shape.standard_normal((1000, dimension), dtype=np.float32)
    directions = shape.standard_normal((32, dimension), dtype=np.float32)
    rng = np.random.default_rng(seed)
    vectors = np.empty((count, dimension), dtype=np.float32)
    for start in range(0, count, 65_536):
        part = vectors[start : start + 65_536]
        cloud = rng.standard_normal((len(part), 32), dtype=np.float32) @ directions
        part[:] = centers[rng.integers(0, 1000, len(part))] + 0.1 * cloud
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def make_texts(count: int) -> list[str]:
    """Return texts of some 600 bytes; each ends with its number."""
    rng = np.random.default_rng(1)
    words = np.array([f"word{number}" for number in range(5000)])
    return [f"{' '.join(words[rng.integers(0, 5000, WORDS)])} {number}" for number in range(count)]


@dataclass(frozen=True, slots=True)
class Peer:
    """One contestant.

    Attributes:
        name: As the table has it.
        store: Keeps it alive.
        search: Searches for k neighbors of query vectors, all in one go where it can.
        save: Writes to a folder.
    """

    name: str
    store: Any
    search: Callable[[Vectors, int], Any]
    save: Callable[[Path], None]


def build(name: str, vectors: Vectors, texts: list[str], *, rows: Any = None) -> Peer:
    """Add texts with their vectors to a new, exact store.

    Args:
        name: Whose.
        vectors: [texts, dimension]
        texts: The texts.
        rows: What is handed in as vectors, lists for example. None takes `vectors`.
    """
    rows = vectors if rows is None else rows
    if name == RAW:
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return Peer(name, index, index.search, lambda path: _write(index, path))
    if name == COMMUNITY:
        other = make_community(vectors)
        other.add_embeddings(zip(texts, rows, strict=True))
        return Peer(
            name,
            other,
            lambda queries, k: [
                other.similarity_search_with_score_by_vector(query, k) for query in queries
            ],
            lambda path: other.save_local(str(path)),
        )
    ours = FAISSVectorStore(Given(vectors), index="flat", device="cpu")
    ours.add_embeddings(zip(texts, rows, strict=True))
    return Peer(name, ours, Search(ours), ours.save_local)


def make_community(vectors: Vectors) -> Any:
    """Return an empty store of langchain-community for inner products."""
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_community.vectorstores.utils import DistanceStrategy

    return FAISS(
        Given(vectors),
        faiss.IndexFlatIP(vectors.shape[1]),
        InMemoryDocstore(),
        {},
        distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
    )


class Search:
    """Ours by vectors: one by `similarity_search_with_score_by_vector`, several as texts."""

    def __init__(self, store: FAISSVectorStore) -> None:
        self._store = store
        self._embedding: Any = store.embeddings

    def __call__(self, queries: Vectors, k: int, **how: Any) -> Any:
        """Return documents with scores."""
        if len(queries) == 1:
            return [self._store.similarity_search_with_score_by_vector(queries[0], k, **how)]
        known, self._embedding.vectors = self._embedding.vectors, queries
        try:
            return self._store.similarity_search_many(list(map(str, range(len(queries)))), k, **how)
        finally:
            self._embedding.vectors = known


def _write(index: Any, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(path / "index.faiss"))
