"""Import from langchain-community's FAISS store: a live one, or a saved folder.

That store keeps its documents apart from its vectors: a document store by id, and a dictionary from
a vector's number to an id. Nothing of langchain-community is imported.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.store.errors import StoreError, StoreNotFoundError, WrongModelError
from langchain_gpu.store.pickled import Limits, RefusedPickleError, Thing, read
from langchain_gpu.store.plain import Plain

DOCSTORES = frozenset(
    f"{package}.docstore.{module}InMemoryDocstore"
    for package in ("langchain", "langchain_classic", "langchain_community")
    for module in ("in_memory.", "")
)
DOCUMENTS = frozenset(
    {"langchain_core.documents.base.Document", "langchain_core.documents.Document"}
    | {
        f"{package}.{module}.Document"
        for package in ("langchain", "langchain_classic", "langchain_community")
        for module in ("docstore.document", "schema", "schema.document", "documents")
    }
)

TRIED = 8  # documents that are embedded again, to know the model
LIKE = 0.7  # compressed vectors of one model stay above, those of two models far below
_FIELDS = ("page_content", "metadata")

Fix = Callable[[dict[str, Any]], dict[str, Any]]


class NotCommunityError(StoreError):
    """What was given is not a store of langchain-community, or its parts do not belong together."""


class Kept(NamedTuple):
    """A document as that store keeps it."""

    text: str
    metadata: dict[str, Any]


class Moved(NamedTuple):
    """Documents in the order of their vectors.

    Attributes:
        ids: One for each document.
        texts: One for each document.
        metadatas: What JSON can hold.
        changed: Why some are not what they were; a sentence for each reason.
    """

    ids: list[str]
    texts: list[str]
    metadatas: list[dict[str, Any]]
    changed: list[str]


@dataclass(slots=True)
class Source:
    """The documents of a store, and which vector is whose.

    Attributes:
        name: What it is called in errors.
        documents: By id.
        ids: The id of each vector, by the vector's number.
        limits: How much of it is taken.
        size: Bytes that were read, None if it was live.
    """

    name: str
    documents: Mapping[str, Kept]
    ids: Mapping[int, str]
    limits: Limits = field(default_factory=Limits)
    size: int | None = None

    def move(self, numbers: NDArray[np.int64], fix: Fix | None = None) -> Moved:
        """Return the documents of vectors.

        Args:
            numbers: [n], the number of each vector.
            fix: Makes metadata that JSON can hold.

        Raises:
            NotCommunityError: Numbers, ids and documents do not match.
            DocumentError: Metadata is not JSON.
            RefusedPickleError: There is far more of it than was read.
        """
        if len(numbers) != len(self.ids) or any(n not in self.ids for n in numbers.tolist()):
            raise NotCommunityError(
                f"{self.name}: the index has {len(numbers)} vectors, index_to_docstore_id names "
                f"{len(self.ids)}, and they differ: index and documents are not of one store"
            )
        ids = [self.ids[number] for number in numbers.tolist()]
        taken = Plain(self.limits, self.size)
        texts, metadatas = [], []
        for id_ in ids:
            kept = self.documents.get(id_)
            if kept is None:
                raise NotCommunityError(
                    f"{self.name}: index_to_docstore_id names the id {id_!r:.60}, and there is no "
                    "such document"
                )
            texts.append(kept.text)
            taken.add(len(kept.text))
            metadatas.append(taken.take(kept.metadata if fix is None else fix(kept.metadata), id_))
        changed = []
        if left := len(self.documents.keys() - set(ids)):
            changed.append(f"{left} documents without a vector were left out")
        if taken.listed:
            changed.append(
                f"tuples and sets in the metadata of {taken.listed} documents became lists, as "
                "JSON has no others"
            )
        return Moved(ids, texts, metadatas, changed)


def _names(folder: Path) -> str:
    """Return the names that stores in a folder were saved under, for an error."""
    found = [file.stem for file in sorted(folder.glob("*.pkl"))]
    found = [name for name in found if (folder / f"{name}.faiss").is_file()]
    return f"; here: {', '.join(found)}" if found else ""


def open_folder(folder: Path, index_name: str = "index", limits: Limits | None = None) -> Source:
    """Read the documents of a saved store. Nothing in the file is run.

    Raises:
        StoreNotFoundError: There is no such store.
        RefusedPickleError: It holds something else than documents, or is broken or too large.
        NotCommunityError: Its values are not those of a store.
        OSError: It cannot be read.
    """
    limits = limits or Limits()
    if Path(index_name).name != index_name:
        raise ValueError(f"index_name is the name of a file, not {index_name!r}")
    if not folder.is_dir():
        raise StoreNotFoundError(f"there is no folder {folder}")
    path = folder / f"{index_name}.pkl"
    for needed in (path, folder / f"{index_name}.faiss"):
        if not needed.is_file():
            raise StoreNotFoundError(
                f"{folder} holds no store of langchain-community: {needed.name} is missing; "
                f"index_name (--index-name) is what its save_local was given{_names(folder)}"
            )
    size = path.stat().st_size
    if size > limits.size:
        raise RefusedPickleError(f"{path} has {size:,} bytes; Limits(size=...) allows more")
    # In memory, where a length that is a lie asks for no more than there is.
    try:
        held = read(io.BytesIO(path.read_bytes()), allowed=DOCSTORES | DOCUMENTS, limits=limits)
    except RefusedPickleError as error:
        raise RefusedPickleError(
            f"{path} {error}. It was not run. If it is yours, load it with langchain-community and "
            "give the store itself to from_community"
        ) from error
    documents, ids = _unpacked(path, held)
    return Source(str(path), documents, ids, limits, size)


def take_store(store: Any) -> Source:
    """Return the documents of a live store.

    Raises:
        TypeError: It is none.
        NotCommunityError: A document is missing.
    """
    ids = getattr(store, "index_to_docstore_id", None)
    docstore = getattr(store, "docstore", None)
    if not isinstance(ids, dict) or docstore is None or not hasattr(store, "index"):
        raise TypeError(
            "a folder, or a FAISS store of langchain-community is needed, not "
            f"{type(store).__name__}"
        )
    name = f"the given {type(store).__name__}"
    ids = dict(ids)
    held = getattr(docstore, "_dict", None)
    if not isinstance(held, dict):
        held = {id_: docstore.search(id_) for id_ in ids.values()}
    documents = {
        id_: _kept(name, id_, {key: getattr(document, key, None) for key in _FIELDS})
        for id_, document in dict(held).items()
    }
    return Source(name, documents, ids)


def accept_model(
    embedding: object,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    embed: Callable[[list[str]], NDArray[np.float32]],
) -> None:
    """Refuse vectors that an embedding did not make: that store does not say whose they are.

    Args:
        embedding: Named in errors.
        texts: The texts.
        vectors: [texts, dimension]
        embed: Embeds texts with it: [n, dimension].

    Raises:
        WrongModelError: It is another model.
    """
    filled = [position for position, text in enumerate(texts[:1000]) if text.strip()]
    if not filled:
        return
    tried = [
        filled[n] for n in np.linspace(0, len(filled) - 1, min(TRIED, len(filled))).astype(int)
    ]
    again, before = embed([texts[position] for position in tried]), vectors[tried]
    called = getattr(embedding, "model", None) or getattr(embedding, "model_name", None)
    called = repr(called) if isinstance(called, str) else f"the given {type(embedding).__name__}"
    if again.shape[1] != before.shape[1]:
        raise WrongModelError(
            f"{called} makes vectors of {again.shape[1]} dimensions, the store has "
            f"{before.shape[1]}: give the model it was built with"
        )
    lengths = np.linalg.norm(again, axis=1) * np.linalg.norm(before, axis=1)
    likeness = float(np.median((again * before).sum(axis=1) / np.maximum(lengths, 1e-30)))
    if likeness < LIKE:
        raise WrongModelError(
            f"{called} did not make these vectors: {len(tried)} texts embedded again have a median "
            f"cosine of {likeness:.3f} to what is stored. Give the model the store was built with; "
            "check_model=False takes the vectors as they are"
        )


def _unpacked(path: Path, held: Any) -> tuple[dict[str, Kept], dict[int, str]]:
    pair = held if isinstance(held, tuple) else ()
    try:
        docstore, ids = pair
    except ValueError:
        docstore, ids = None, None
    if not isinstance(docstore, Thing) or docstore.name not in DOCSTORES:
        raise NotCommunityError(
            f"{path} holds no pair of documents and their ids, as a store's save_local writes it"
        )
    found = docstore.state.get("_dict") if docstore.state else None
    if not isinstance(found, dict):
        raise NotCommunityError(f"{path} holds a document store without documents")
    if not isinstance(ids, dict) or not all(type(number) is int for number in ids):
        raise NotCommunityError(f"{path}: index_to_docstore_id is not a dictionary of integers")
    _all_strings(path, found, "document id")
    _all_strings(path, ids.values(), "id in index_to_docstore_id")
    documents = {id_: _kept(str(path), id_, _fields(thing)) for id_, thing in found.items()}
    return documents, ids


def _fields(thing: Any) -> dict[Any, Any] | None:
    """Return the fields of a document, as pydantic 1 and 2 wrote them."""
    if not isinstance(thing, Thing) or thing.name not in DOCUMENTS or not thing.state:
        return None
    fields = thing.state.get("__dict__")
    return fields if isinstance(fields, dict) else None


def _kept(name: str, id_: object, fields: dict[Any, Any] | None) -> Kept:
    if not isinstance(id_, str):
        raise NotCommunityError(f"{name}: the document id {id_!r:.60} is not a string")
    text = None if fields is None else fields.get("page_content")
    if fields is None or not isinstance(text, str):
        raise NotCommunityError(f"{name}: the value under the id {id_!r:.60} is not a document")
    metadata = fields.get("metadata")
    return Kept(text, {} if metadata is None else metadata)


def _all_strings(path: Path, values: Iterable[Any], what: str) -> None:
    for value in values:
        if not isinstance(value, str):
            raise NotCommunityError(f"{path}: the {what} {value!r:.60} is not a string")


__all__ = [
    "DOCSTORES",
    "DOCUMENTS",
    "Kept",
    "Moved",
    "NotCommunityError",
    "Source",
    "accept_model",
    "open_folder",
    "take_store",
]
