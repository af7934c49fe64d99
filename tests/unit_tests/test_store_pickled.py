"""Pickles of langchain-community's FAISS: every version is read, and nothing in one is run."""

from __future__ import annotations

import builtins
import datetime as dt
import io
import os
import pickle
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_gpu import FAISSVectorStore
from langchain_gpu.store.community import DOCSTORES, DOCUMENTS, NotCommunityError
from langchain_gpu.store.errors import (
    DocumentError,
    StoreError,
)
from langchain_gpu.store.pickled import Limits, RefusedPickleError, read
from tests.unit_tests.community_pickles import (
    DOCSTORE,
    DOCUMENT,
    Calls,
    Written,
    document,
    folder_of,
    store_of,
    written,
)
from tests.unit_tests.community_stores import EMBEDDING, IDS, TEXTS


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
        (b"K\x01", "not a complete pickle"),
        (b"\xff.", "not a complete pickle"),
        (b"X\xff\xff\xff\x7fa.", "not a complete pickle"),
        (b"\x8d" + b"\xff" * 7 + b"\x7fa.", "not a complete pickle"),
        (b"\x8b\xff\xff\xff\x7fa.", "not a complete pickle"),
        (b"\x8a\xffa.", "not a complete pickle"),
        (b"X\x01\x00\x00\x00\xff.", "not a complete pickle"),
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
    refuse(data, "not a complete pickle|protocol")


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
