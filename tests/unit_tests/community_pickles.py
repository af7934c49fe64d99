"""Pickles as langchain-community's FAISS stores of every version hold them, and hostile ones."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit_tests.community_stores import EMBEDDING, IDS, SIZE, TEXTS, faiss

DOCUMENT = "langchain_core.documents.base", "Document"
DOCSTORE = "langchain_community.docstore.in_memory", "InMemoryDocstore"


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


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call
