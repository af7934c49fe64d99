"""Moving in from langchain-community's FAISS: the same answers, and nothing of a pickle is run."""

from __future__ import annotations

import builtins
import datetime as dt
import io
import os
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from langchain_gpu import FAISSVectorStore
from langchain_gpu.cli import main, models
from langchain_gpu.events import GPUWarning
from langchain_gpu.search.base import VectorError
from langchain_gpu.store.community import DOCSTORES, DOCUMENTS, NotCommunityError
from langchain_gpu.store.errors import (
    DocumentError,
    StoreError,
    StoreNotFoundError,
    WrongModelError,
)
from langchain_gpu.store.pickled import Limits, RefusedPickleError, read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    community = pytest.importorskip("langchain_community.vectorstores.faiss")
    strategies = pytest.importorskip("langchain_community.vectorstores.utils").DistanceStrategy
    in_memory = pytest.importorskip("langchain_community.docstore.in_memory")
faiss: Any = pytest.importorskip("faiss")

SIZE = 16
COUNT = 300
TEXTS = [f"text {n}" for n in range(COUNT)]
IDS = [f"id{n}" for n in range(COUNT)]
METADATAS: list[dict[str, Any]] = [
    {"n": n, "lang": "en" if n % 3 else "de", "nested": {"tags": ["a", n, None, True, 0.5]}}
    for n in range(COUNT)
]
QUERIES = [f"query {n}" for n in range(20)]
EMBEDDING = DeterministicFakeEmbedding(size=SIZE)
DOCUMENT = "langchain_core.documents.base", "Document"
DOCSTORE = "langchain_community.docstore.in_memory", "InMemoryDocstore"


def theirs(**options: Any) -> Any:
    return community.FAISS.from_texts(TEXTS, EMBEDDING, METADATAS, ids=IDS, **options)


def over(index: Any, **options: Any) -> Any:
    """A store of theirs over an index that the user made."""
    vectors = np.array(EMBEDDING.embed_documents(TEXTS), dtype=np.float32)
    if not index.is_trained:
        index.train(vectors)
    store = community.FAISS(EMBEDDING, index, in_memory.InMemoryDocstore(), {}, **options)
    store.add_texts(TEXTS, METADATAS, ids=IDS)
    return store


def saved(store: Any, folder: Path) -> Path:
    store.save_local(str(folder))
    return folder


def split(found: Any) -> tuple[list[Any], list[float]]:
    return [document.id for document, _ in found], [float(score) for _, score in found]


def agree(ours: FAISSVectorStore, right: Any, *, cosine: bool = False) -> None:
    assert len(ours) == right.index.ntotal
    for query in QUERIES:
        ids, scores = split(ours.similarity_search_with_score(query, k=10))
        their_ids, their_scores = split(right.similarity_search_with_score(query, k=10))
        assert ids == their_ids
        if cosine:  # theirs is the squared distance of unit vectors
            scores = [2 - 2 * score for score in scores]
        np.testing.assert_allclose(scores, their_scores, rtol=1e-4, atol=1e-5)
        filtered = ours.similarity_search(query, k=10, filter={"lang": "de"})
        wanted = right.similarity_search(query, k=10, filter={"lang": "de"}, fetch_k=COUNT)
        assert filtered == wanted  # ids, texts and metadata


KINDS: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("l2", theirs, {}),
    ("ip", lambda: theirs(distance_strategy=strategies.MAX_INNER_PRODUCT), {}),
    ("l2", lambda: theirs(distance_strategy=strategies.COSINE), {}),
    ("cosine", lambda: theirs(normalize_L2=True), {"normalize_L2": True}),
]


@pytest.mark.parametrize(("metric", "make", "options"), KINDS)
@pytest.mark.parametrize("live", [True, False])
def test_the_same_queries_find_the_same(
    metric: str, make: Callable[[], Any], options: dict[str, Any], *, live: bool, tmp_path: Path
) -> None:
    right = make()
    source = right if live else saved(right, tmp_path)
    ours = FAISSVectorStore.from_community(source, EMBEDDING, **({} if live else options))
    assert ours.metric == metric
    agree(ours, right, cosine=metric == "cosine")


def test_inner_products_of_normalized_vectors_are_cosines() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs says that this does nothing, and does it
        right = over(
            faiss.IndexFlatIP(SIZE),
            normalize_L2=True,
            distance_strategy=strategies.MAX_INNER_PRODUCT,
        )
    ours = FAISSVectorStore.from_community(right, EMBEDDING)
    assert ours.metric == "cosine"
    for query in QUERIES:
        found = split(ours.similarity_search_with_score(query, k=10))
        expected = split(right.similarity_search_with_score(query, k=10))
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    "factory", ["IVF4,Flat", "HNSW32", "SQ8", "IVF4,SQ8", "SQfp16", "IVF4,PQ8x8np", "PQ8x8np"]
)
def test_other_indexes_give_their_vectors(factory: str, *, live: bool, tmp_path: Path) -> None:
    index = faiss.index_factory(SIZE, factory)
    if hasattr(index, "nprobe"):
        index.nprobe = 4
    if hasattr(index, "hnsw"):
        index.hnsw.efSearch = COUNT
    right = over(index)
    before = [right.similarity_search(query, k=5) for query in QUERIES]
    ours = FAISSVectorStore.from_community(right if live else saved(right, tmp_path), EMBEDDING)
    agree(ours, right)
    assert [right.similarity_search(query, k=5) for query in QUERIES] == before
    if hasattr(index, "direct_map"):
        assert index.direct_map.type == faiss.DirectMap.NoMap  # theirs was not changed


def test_numbers_of_an_id_map_are_followed() -> None:
    vectors = np.array(EMBEDDING.embed_documents(TEXTS[:3]), dtype=np.float32)
    index = faiss.IndexIDMap2(faiss.IndexFlatL2(SIZE))
    index.add_with_ids(vectors, np.array([70, 5, 30]))
    documents = {IDS[n]: Document(page_content=TEXTS[n]) for n in range(3)}
    docstore = in_memory.InMemoryDocstore(documents)
    right = community.FAISS(EMBEDDING, index, docstore, {70: "id0", 5: "id1", 30: "id2"})
    ours = FAISSVectorStore.from_community(right, EMBEDDING)
    for text in TEXTS[:3]:
        (document, score), *_ = ours.similarity_search_with_score(text, k=1)
        assert document.page_content == text
        assert score == pytest.approx(0, abs=1e-5)


def test_after_deletions_and_merges(tmp_path: Path) -> None:
    right = theirs()
    right.delete(IDS[5:250:7])
    other = community.FAISS.from_texts(["more", "and more"], EMBEDDING, [{"lang": "de"}] * 2)
    right.merge_from(other)
    agree(FAISSVectorStore.from_community(saved(right, tmp_path), EMBEDDING), right)


def test_what_moved_in_is_saved_changed_and_loaded(tmp_path: Path) -> None:
    ours = FAISSVectorStore.from_community(saved(theirs(), tmp_path / "old"), EMBEDDING)
    ours.add_texts(["new"], ids=["id0"])
    ours.save_local(tmp_path / "new")
    loaded = FAISSVectorStore.load_local(tmp_path / "new", EMBEDDING)
    assert len(loaded) == COUNT
    assert [document.page_content for document in loaded.get_by_ids(["id0"])] == ["new"]


def test_an_empty_store(tmp_path: Path) -> None:
    index = faiss.IndexFlatL2(SIZE)
    right = community.FAISS(EMBEDDING, index, in_memory.InMemoryDocstore(), {})
    ours = FAISSVectorStore.from_community(saved(right, tmp_path), EMBEDDING)
    assert len(ours) == 0
    assert ours.add_texts(["a"]) != []


def test_any_index_kind_of_ours() -> None:
    ours = FAISSVectorStore.from_community(theirs(), EMBEDDING, index="hnsw", device="cpu")
    assert ours.index_shape == "HNSW32"


def test_another_name(tmp_path: Path) -> None:
    theirs().save_local(str(tmp_path), index_name="other")
    assert len(FAISSVectorStore.from_community(tmp_path, EMBEDDING, index_name="other")) == COUNT
    with pytest.raises(StoreNotFoundError, match="index.pkl is missing; index_name"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)
    with pytest.raises(StoreNotFoundError, match=r"\(--index-name\) .*; here: other$"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)
    with pytest.raises(StoreNotFoundError, match="there is no folder .*none"):
        FAISSVectorStore.from_community(tmp_path / "none", EMBEDDING)
    with pytest.raises(ValueError, match="name of a file"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING, index_name="../other")


def test_its_own_relevance_comes_along() -> None:
    right = theirs(normalize_L2=True, relevance_score_fn=lambda distance: 1 - distance / 4)
    ours = FAISSVectorStore.from_community(right, EMBEDDING)
    for query in QUERIES:
        found = ours.similarity_search_with_relevance_scores(query, k=3)
        expected = right.similarity_search_with_relevance_scores(query, k=3)
        np.testing.assert_allclose(split(found)[1], split(expected)[1], atol=1e-5)


# Whose vectors.


class Other(Embeddings):
    def __init__(self, size: int = SIZE) -> None:
        self.model = "other"
        self._embedding = DeterministicFakeEmbedding(size=size)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._embedding.embed_query(f"other {text}")


def test_another_model_is_refused() -> None:
    with pytest.raises(WrongModelError, match=r"'other' did not make these vectors.*check_model"):
        FAISSVectorStore.from_community(theirs(), Other())
    ours = FAISSVectorStore.from_community(theirs(), Other(), check_model=False)
    assert len(ours) == COUNT


def test_another_width_is_refused() -> None:
    with pytest.raises(WrongModelError, match="8 dimensions, the store has 16"):
        FAISSVectorStore.from_community(theirs(), Other(8))


# Metadata.


def test_tuples_become_lists_and_it_is_said(tmp_path: Path) -> None:
    metadatas = [{"points": ((1, 2), (3, 4))}, {"tags": {"b", "a"}}, {"plain": [1]}]
    right = community.FAISS.from_texts(["a", "b", "c"], EMBEDDING, metadatas, ids=["x", "y", "z"])
    for source in (right, saved(right, tmp_path)):
        with pytest.warns(GPUWarning, match="metadata of 2 documents became lists"):
            ours = FAISSVectorStore.from_community(source, EMBEDDING)
        assert [document.metadata for document in ours.get_by_ids(["x", "y", "z"])] == [
            {"points": [[1, 2], [3, 4]]},
            {"tags": ["a", "b"]},
            {"plain": [1]},
        ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "'id1' holds nan"),
        (b"cos\nsystem\n.", "'id1' holds a bytes"),
        ({1: 2}, "'id1' has the key 1"),
    ],
)
def test_metadata_json_has_not(value: Any, said: str, tmp_path: Path) -> None:
    right = community.FAISS.from_texts(["a", "b"], EMBEDDING, [{}, {"bad": value}], ids=IDS[:2])
    for source in (right, saved(right, tmp_path)):
        with pytest.raises(DocumentError, match=said):
            FAISSVectorStore.from_community(source, EMBEDDING)
        ours = FAISSVectorStore.from_community(
            source, EMBEDDING, metadata=lambda given: {"was": str(given.get("bad"))}
        )
        assert ours.get_by_ids(["id1"])[0].metadata == {"was": str(value)}


def test_documents_without_a_vector_are_counted() -> None:
    right = theirs()
    right.docstore.add({"alone": Document(page_content="alone")})
    with pytest.warns(GPUWarning, match="1 documents without a vector were left out"):
        assert len(FAISSVectorStore.from_community(right, EMBEDDING)) == COUNT


# What does not belong together.


def test_an_index_of_another_store(tmp_path: Path) -> None:
    saved(theirs(), tmp_path)
    faiss.write_index(faiss.IndexFlatL2(SIZE), str(tmp_path / "index.faiss"))
    with pytest.raises(NotCommunityError, match="0 vectors, index_to_docstore_id names 300"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_ids_of_other_numbers() -> None:
    right = theirs()
    right.index_to_docstore_id = {n + 1: id_ for n, id_ in right.index_to_docstore_id.items()}
    with pytest.raises(NotCommunityError, match="300, and they differ"):
        FAISSVectorStore.from_community(right, EMBEDDING)


def test_an_id_without_a_document() -> None:
    right = theirs()
    right.index_to_docstore_id[7] = "gone"
    with pytest.raises(NotCommunityError, match="the id 'gone', and there is no"):
        FAISSVectorStore.from_community(right, EMBEDDING)


def test_an_id_of_two_vectors() -> None:
    right = theirs()
    right.index_to_docstore_id[7] = "id6"
    with pytest.raises(DocumentError, match="id6"):
        FAISSVectorStore.from_community(right, EMBEDDING)


def test_an_embedding_that_is_none() -> None:
    with pytest.raises(TypeError, match="embedding must be an Embeddings, not str"):
        FAISSVectorStore.from_community(theirs(), "a model")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, 7, object(), Document(page_content="a"), {}])
def test_neither_folder_nor_store(given: Any) -> None:
    with pytest.raises(TypeError, match="a folder, or a FAISS store"):
        FAISSVectorStore.from_community(given, EMBEDDING)


def test_an_index_that_cannot_be_taken_over(tmp_path: Path) -> None:
    right = theirs()
    right.index = faiss.IndexFlat(SIZE, faiss.METRIC_L1)
    with pytest.raises(VectorError, match="metric number 2; only L2 and inner product"):
        FAISSVectorStore.from_community(right, EMBEDDING)
    right.index = faiss.IndexLSH(SIZE, 32)
    with pytest.raises((VectorError, NotCommunityError)):
        FAISSVectorStore.from_community(right, EMBEDDING)
    saved(theirs(), tmp_path)
    data = (tmp_path / "index.faiss").read_bytes()
    for cut in (0, 3, 40, len(data) - 1):
        (tmp_path / "index.faiss").write_bytes(data[:cut])
        with pytest.raises(VectorError, match="FAISS cannot read"):
            FAISSVectorStore.from_community(tmp_path, EMBEDDING)


# The pickle, as every version wrote it.


class Written:
    """An object that pickles under any class's name, with any state."""

    def __init__(self, path: tuple[str, str], state: Any) -> None:
        self.path, self.state = path, state


_Pickler: Any = vars(pickle)["_Pickler"]  # the one written in Python


class Writer(_Pickler):
    """Writes `Written` as the named class would have been."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:  # noqa: FBT001, FBT002
        if isinstance(obj, Written):
            self.save(_Raw(obj.path))
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.memoize(obj)
            self.save(obj.state)
            self.write(pickle.BUILD)
        elif isinstance(obj, _Raw):
            module, name = obj
            if self.proto >= 4:
                self.save(module)
                self.save(name)
                self.write(pickle.STACK_GLOBAL)
            else:
                self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


class _Raw(tuple[str, ...]):
    __slots__ = ()


def written(value: Any, protocol: int = 4) -> bytes:
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


def document(path: tuple[str, str], version: int, text: str, metadata: Any) -> Written:
    fields = {"page_content": text, "metadata": metadata}
    state: dict[str, Any]
    if version == 1:
        state = {
            "__dict__": fields,
            "__fields_set__": {"page_content", "metadata"},
            "__private_attribute_values__": {},
        }
    else:
        state = {
            "__dict__": {"id": None, **fields, "type": "Document"},
            "__pydantic_extra__": None,
            "__pydantic_fields_set__": {"page_content", "metadata"},
            "__pydantic_private__": None,
        }
    return Written(path, state)


def folder_of(pickled: bytes, folder: Path, count: int = 2) -> Path:
    index = faiss.IndexFlatL2(SIZE)
    index.add(np.array(EMBEDDING.embed_documents(TEXTS[:count]), dtype=np.float32))
    faiss.write_index(index, str(folder / "index.faiss"))
    (folder / "index.pkl").write_bytes(pickled)
    return folder


def store_of(metadata: Any, path: tuple[str, str] = DOCUMENT, version: int = 2) -> Any:
    held = {IDS[n]: document(path, version, TEXTS[n], metadata) for n in range(2)}
    return Written(DOCSTORE, {"_dict": held}), {0: "id0", 1: "id1"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("path", sorted(DOCUMENTS))
def test_every_version_of_a_document(
    path: str, version: int, protocol: int, tmp_path: Path
) -> None:
    module, _, name = path.rpartition(".")
    data = written(store_of({"a": [1, "b"]}, (module, name), version), protocol)
    ours = FAISSVectorStore.from_community(folder_of(data, tmp_path), EMBEDDING)
    found = ours.similarity_search(TEXTS[1], k=1)
    assert [(d.id, d.page_content, d.metadata) for d in found] == [
        ("id1", TEXTS[1], {"a": [1, "b"]})
    ]


@pytest.mark.parametrize("path", sorted(DOCSTORES))
def test_every_version_of_the_document_store(path: str, tmp_path: Path) -> None:
    module, _, name = path.rpartition(".")
    held = {IDS[n]: document(DOCUMENT, 2, TEXTS[n], {}) for n in range(2)}
    data = written((Written((module, name), {"_dict": held}), {0: "id0", 1: "id1"}))
    assert len(FAISSVectorStore.from_community(folder_of(data, tmp_path), EMBEDDING)) == 2


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_pickle_reads_them(protocol: int) -> None:
    value = {
        "a": [None, True, False, 0, -1, 255, 65535, 2**31, -(2**63), 2**100, 0.1, -1e300],
        "b": ("", "ä\ud800😀", "x" * 300, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "c": {"d": {1, 2, "e"}, 3: [[], {}, [{}]], "f": list(range(2000))},
    }
    value["shared"] = [value["a"], value["a"]]
    data = pickle.dumps(value, protocol)
    assert read(io.BytesIO(data), allowed=frozenset(), limits=Limits()) == value


# Hostile pickles. Each would run, or grow, in `pickle.load`.


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Ran(Exception):  # noqa: N818
    """A pickle ran something."""


def nothing_runs(read: Callable[[], Any]) -> Any:
    """Call, with nothing that could run, import or unpickle."""

    def run(*_: Any, **__: Any) -> Any:
        raise Ran

    with pytest.MonkeyPatch.context() as patch:
        for function in ("load", "loads", "Unpickler", "_Unpickler"):
            patch.setattr(pickle, function, run)
        for function in ("system", "popen", "remove"):
            patch.setattr(os, function, run)
        for function in ("eval", "exec", "compile", "open", "__import__"):
            patch.setattr(builtins, function, run)
        return read()


def refuse(data: bytes, said: str, limits: Limits | None = None) -> None:
    allowed, limits = DOCSTORES | DOCUMENTS, limits or Limits()
    with pytest.raises(RefusedPickleError, match=said):
        nothing_runs(lambda: read(io.BytesIO(data), allowed=allowed, limits=limits))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        (Calls(os.system, "true"), "posix.system|nt.system"),
        (Calls(eval, "1"), "builtins.eval|__builtin__.eval"),
        (Calls(exec, "1"), "builtins.exec|__builtin__.exec"),
        (Calls(getattr, "a", "upper"), "getattr"),
        (Calls(__import__, "antigravity"), "__import__"),
        (Calls(pickle.loads, b"cos\nsystem\n."), "pickle.loads"),
        (Calls(set, [1], [2]), "broken"),
        (Calls(frozenset, [1]), "frozenset"),
        (Calls(bytearray, 10**12), "bytearray"),
        (Calls(range, 10), "range|xrange"),
        (Document(page_content="a").__class__.__mro__[1], "BaseMedia|Serializable"),
        (Path("a"), "[Pp]ath"),
        (np.float32(1), "numpy"),
        (io.BytesIO(b"a"), "BytesIO"),
    ],
)
def test_what_runs_is_refused(hidden: Any, said: str, protocol: int) -> None:
    for place in (hidden, [hidden], {"a": (hidden,)}, store_of({"a": hidden})):
        refuse(written(place, protocol), said)


MOMENTS = [
    dt.date(2026, 1, 31),
    dt.datetime(2026, 1, 31, 12, 30, 1, 5),  # noqa: DTZ001 - without a zone on purpose
    dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
    dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=-3))),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@pytest.mark.parametrize("live", [True, False])
def test_dates_move_in(moment: dt.date, *, live: bool, tmp_path: Path) -> None:
    metadata = {"at": moment, "inner": [moment]}
    right = community.FAISS.from_texts(["a"], EMBEDDING, [metadata])
    source = right if live else saved(right, tmp_path)
    (document,) = FAISSVectorStore.from_community(source, EMBEDDING).similarity_search("a")
    assert document.metadata == metadata


@pytest.mark.parametrize(
    ("hidden", "said"),
    [
        (Calls(dt.datetime, "2026"), "broken"),
        (Calls(dt.datetime, b"short"), "broken"),
        (Calls(dt.timedelta, 10**12), "broken"),
        (Calls(dt.timezone, dt.timedelta(days=3)), "broken"),
        (Calls(dt.datetime, [2026, 1, 1]), "broken"),
        (Calls(dt.datetime.fromisoformat, "2026-01-31"), "asks for|getattr"),
        (Calls(dt.datetime, 2026, 1, 1, 0, 0, 0, 0, Calls(os.system, "true")), "system"),
    ],
)
def test_broken_dates_are_refused(hidden: Any, said: str) -> None:
    refuse(written(store_of({"a": hidden}), 5), said)


def test_a_length_of_time_is_no_metadata(tmp_path: Path) -> None:
    right = community.FAISS.from_texts(["a"], EMBEDDING, [{"x": dt.timedelta(1)}])
    with pytest.raises(DocumentError, match="holds a timedelta"):
        FAISSVectorStore.from_community(saved(right, tmp_path), EMBEDDING)


OPCODES = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
ALLOWED = b"clangchain_core.documents.base\nDocument\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (ALLOWED + b")R.", "calls a function"),
        (ALLOWED + b"(U\x01at\x81.", "instruction SHORT_BINSTRING"),
        (ALLOWED + b"X\x01\x00\x00\x00a\x85\x81.", "with arguments"),
        (ALLOWED + b")}\x92.", "instruction NEWOBJ_EX"),
        (b"(" + ALLOWED + b"o.", "instruction OBJ"),
        (b"(ilangchain_core.documents.base\nDocument\n.", "instruction INST"),
        (b"cos\nsystem\n.", "os.system"),
        (b"clangchain_core.documents.base\nDocument.__init__\n.", "Document.__init__"),
        (b"clangchain_core.documents.base\nDocument\x00\n.", "asks for"),
        (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.", "os.system"),
        (b"K\x01K\x02\x93.", "broken"),
        (b"]X\x06\x00\x00\x00system\x93.", "broken"),
        (b"cbuiltins\nset\n)\x81.", "with arguments"),
        (b"cbuiltins\nset\n.", ""),
        (ALLOWED + b")\x81]b.", "broken"),
        (ALLOWED + b")\x81}b}b.", "broken"),
        (ALLOWED + b"}b.", "broken"),
        (b"]}b.", "broken"),
        (b"Pname\n.", "instruction PERSID"),
        (b"K\x01Q.", "instruction BINPERSID"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"\x83\x01\x00.", "instruction EXT2"),
        (b"\x84\x01\x00\x00\x00.", "instruction EXT4"),
        (b"\x97.", "instruction NEXT_BUFFER"),
        (b"]\x98.", "instruction READONLY_BUFFER"),
        (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.", "instruction BYTEARRAY8"),
        (b"K\x012.", "instruction DUP"),
        (b"K\x010.", "instruction POP"),
        (b"(1.", "instruction POP_MARK"),
        (b"h\x07.", "broken"),
        (b"q\x07.", "broken"),
        (b"(q\x07.", "broken"),
        (b"\x94.", "broken"),
        (b".", "one value"),
        (b"(.", "one value"),
        (b"K\x01K\x02.", "one value"),
        (b"e.", "broken"),
        (b"]K\x01e.", "broken"),
        (b"}(K\x01u.", "broken"),
        (b"}]K\x01s.", "a list as a key"),
        (b"}}K\x01s.", "a dict as a key"),
        (b"})K\x01s.", "a tuple as a key"),
        (b"\x8f(]\x90.", "a list as a key or in a set"),
        (b"K\x01a.", "broken"),
        (b"K\x01K\x02a.", "broken"),
        (b"K\x01", "no whole pickle"),
        (b"\xff.", "no whole pickle"),
        (b"X\xff\xff\xff\x7fa.", "no whole pickle"),
        (b"\x8d" + b"\xff" * 7 + b"\x7fa.", "no whole pickle"),
        (b"\x8b\xff\xff\xff\x7fa.", "no whole pickle"),
        (b"\x8a\xffa.", "no whole pickle"),
        (b"X\x01\x00\x00\x00\xff.", "no whole pickle"),
    ],
)
def test_instructions_a_store_never_needs(body: bytes, said: str) -> None:
    data = b"\x80\x02" + body
    if said:
        refuse(data, said)
    else:  # a word by itself is harmless, and no document
        assert read(io.BytesIO(data), allowed=DOCUMENTS, limits=Limits()) == "builtins.set"


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x09.", b"\x80\x00.", b"\x80\x01N."])
def test_no_pickle_of_ours(data: bytes) -> None:
    refuse(data, "no whole pickle|protocol")


def test_every_other_instruction_is_refused() -> None:
    known = {"STOP", "PROTO", "FRAME"}
    refused = []
    for opcode in pickletools.opcodes:
        padding = b"\x00" * 16 + b"\n\n"
        try:
            read(
                io.BytesIO(b"\x80\x02" + opcode.code.encode("latin-1") + padding),
                allowed=frozenset(),
                limits=Limits(),
            )
        except RefusedPickleError as error:
            if "holds the instruction" in str(error) and opcode.name not in known:
                refused.append(opcode.name)
    dangerous = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "BINPERSID", "DUP", "POP"}
    assert dangerous <= set(refused)


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    data = written(store_of({"a": "b"}))
    for end in range(len(data) - 1):
        with pytest.raises(RefusedPickleError):
            read(io.BytesIO(data[:end]), allowed=DOCSTORES | DOCUMENTS, limits=Limits())


def test_bytes_changed_anywhere_are_refused_or_read(tmp_path: Path) -> None:
    """Nothing but our own error comes out, whatever the file holds."""
    data = written(store_of({"a": ["b", 1, {"c": None}]}))
    random = np.random.default_rng(0)
    folder_of(data, tmp_path)
    for _ in range(800):
        changed = bytearray(data)
        for position in random.integers(0, len(data), random.integers(1, 4)):
            changed[position] = random.integers(0, 256)
        (tmp_path / "index.pkl").write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                FAISSVectorStore.from_community(tmp_path, EMBEDDING, check_model=False)
        except StoreError:
            pass


# Bombs.


def laughs(levels: int, width: int = 10) -> Any:
    value: Any = "ha"
    for _ in range(levels):
        value = [value] * width
    return value


def test_a_billion_laughs(tmp_path: Path) -> None:
    data = written(store_of({"a": laughs(9)}))
    assert len(data) < 2000
    with pytest.raises(RefusedPickleError, match="more than 1,000,000 values|32 times"):
        FAISSVectorStore.from_community(folder_of(data, tmp_path), EMBEDDING)


def test_laughs_over_many_documents(tmp_path: Path) -> None:
    count = 200
    shared = laughs(5)  # 111,111 values, which one document may have
    held = {id_: document(DOCUMENT, 2, id_, {"a": shared}) for id_ in IDS[:count]}
    data = written((Written(DOCSTORE, {"_dict": held}), dict(enumerate(IDS[:count]))))
    with pytest.raises(RefusedPickleError, match=r"32 times what the file holds.*growth"):
        FAISSVectorStore.from_community(folder_of(data, tmp_path, count), EMBEDDING)


def test_a_text_that_all_documents_share(tmp_path: Path) -> None:
    count, text = 200, "x" * 500_000
    held = {id_: document(DOCUMENT, 2, text, {}) for id_ in IDS[:count]}
    pair = Written(DOCSTORE, {"_dict": held}), dict(enumerate(IDS[:count]))
    folder_of(written(pair), tmp_path, count)
    with pytest.raises(RefusedPickleError, match="32 times"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)
    ours = FAISSVectorStore.from_community(
        tmp_path, EMBEDDING, limits=Limits(growth=1000), check_model=False
    )
    assert len(ours) == count


@pytest.mark.parametrize("opening", [b"]", b"}", b"("])
def test_deep_nesting(opening: bytes, tmp_path: Path) -> None:
    levels = 200_000
    close = {b"]": b"a", b"}": b"", b"(": b"t"}[opening]
    step = b"}X\x01\x00\x00\x00a" if opening == b"}" else opening
    close = b"s" if opening == b"}" else close
    deep = step * levels + b"N" + close * levels
    inner = written(store_of({"a": "HERE"}), 2)
    here = b"X\x04\x00\x00\x00HERE"
    start = inner.index(here)
    rest = inner[start + len(here) + 2 :]  # and its memo instruction
    folder_of(inner[:start] + deep + rest, tmp_path)
    with pytest.raises(RefusedPickleError, match="more than 64 levels deep"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_metadata_that_holds_itself(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    folder_of(written(store_of(loop)), tmp_path)
    with pytest.raises(RefusedPickleError, match="levels deep"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_keys_of_one_hash() -> None:
    modulus = 2**61 - 1
    data = pickle.dumps({n * modulus: 0 for n in range(1, 50)}, 4)
    refuse(data, "above 2\\^60")


def test_limits(tmp_path: Path) -> None:
    data = written(store_of({"a": "b" * 1000}))
    refuse(data, "more than 10 instructions", Limits(steps=10))
    refuse(data, "a text of 1,000 bytes", Limits(text=999))
    refuse(data, "more than 5 containers", Limits(containers=5))
    folder_of(data, tmp_path)
    with pytest.raises(RefusedPickleError, match=r"bytes; Limits\(size=...\)"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING, limits=Limits(size=100))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        (1, 2),
        (1, 2, 3),
        ({}, {}),
        (Written(DOCUMENT, {}), {}),
        (Written(DOCSTORE, {}), {}),
        (Written(DOCSTORE, {"_dict": []}), {}),
        (Written(DOCSTORE, {"_dict": {}}), []),
        (Written(DOCSTORE, {"_dict": {}}), {"0": "id0"}),
        (Written(DOCSTORE, {"_dict": {}}), {True: "id0"}),
        (Written(DOCSTORE, {"_dict": {}}), {0: 0}),
        (Written(DOCSTORE, {"_dict": {1: "text"}}), {0: "id0"}),
        (Written(DOCSTORE, {"_dict": {"id0": "text"}}), {0: "id0"}),
        (Written(DOCSTORE, {"_dict": {"id0": Written(DOCUMENT, {})}}), {0: "id0"}),
        (Written(DOCSTORE, {"_dict": {"id0": Written(DOCSTORE, {})}}), {0: "id0"}),
        (Written(DOCSTORE, {"_dict": {"id0": document(DOCUMENT, 2, 1, {})}}), {0: "id0"}),  # type: ignore[arg-type]
    ],
)
def test_values_that_are_no_store(value: Any, tmp_path: Path) -> None:
    folder_of(written(value), tmp_path, 1)
    with pytest.raises(NotCommunityError, match="index.pkl"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_metadata_that_is_no_dictionary(tmp_path: Path) -> None:
    folder_of(written(store_of(["a"])), tmp_path)
    with pytest.raises(DocumentError, match="'id0' is a list"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    folder_of(written(Calls(os.system, "true")), tmp_path)
    with pytest.raises(RefusedPickleError, match="It was not run. If it is yours, load it with"):
        FAISSVectorStore.from_community(tmp_path, EMBEDDING)


def test_the_examples_would_run() -> None:
    """So that a refusal above means something."""
    assert pickle.loads(written(Calls(eval, "40 + 2"))) == 42  # noqa: S301 - our own


# The command.


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "make_embeddings", lambda *_, **__: EMBEDDING)
    right = theirs(normalize_L2=True)
    words = ["import-faiss", str(saved(right, tmp_path / "old")), "--store", str(tmp_path / "new")]
    code, out, err = run(capsys, *words, "--normalize-l2")
    assert (code, err) == (0, "")
    assert out.startswith("300 documents moved to ")
    assert out.endswith("(metric cosine)\n")
    agree(FAISSVectorStore.load_local(tmp_path / "new", EMBEDDING), right, cosine=True)
    code, _, err = run(capsys, *words)
    assert (code, "is not empty; name a new folder" in err) == (1, True)


def test_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "make_embeddings", lambda *_, **__: EMBEDDING)
    folder_of(written(Calls(os.system, "true")), tmp_path)
    code, out, err = run(capsys, "import-faiss", str(tmp_path), "--store", str(tmp_path / "new"))
    assert (code, out) == (1, "")
    assert "system" in err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


# What the page promises.

PAGE = (Path(__file__).parents[2] / "docs" / "community.md").read_text()


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old_store = theirs()
    saved(old_store, tmp_path / "old_folder")
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    session: dict[str, Any] = {"embedding": EMBEDDING, "old_store": old_store}
    exec(compile(code, "community.md", "exec"), session)  # noqa: S102 - our own page
    agree(session["store"], old_store)


def test_the_pages_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = re.findall(r"^langchain-gpu (.*)$", PAGE, re.MULTILINE)
    code, out, _ = run(capsys, "import-faiss", "--help")
    assert code == 0
    assert [word for word in line.split() if word.startswith("--") and word not in out] == []
    assert "--normalize-l2" in out


def test_old_arguments_are_refused_and_not_ignored() -> None:
    ours = FAISSVectorStore.from_community(theirs(), EMBEDDING)
    with pytest.raises(TypeError, match="'fetch_k'"):
        ours.similarity_search("a", fetch_k=20)
    with pytest.raises(TypeError, match="'score_threshold'"):
        ours.similarity_search_with_score("a", score_threshold=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"unknown filter operator '\$neq'; known: .*\$ne "):
        ours.similarity_search("a", filter={"n": {"$neq": 1}})
    with pytest.raises(ValueError, match=r"\$in"):
        ours.similarity_search("a", filter={"lang": ["de", "en"]})
    with pytest.raises(TypeError, match="from_community makes one"):
        ours.merge_from(theirs())
