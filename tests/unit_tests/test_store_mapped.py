"""Documents that stay in their file: the same as in memory, and a clear word for any damage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore
from langchain_gpu.store import documents as tables
from langchain_gpu.store import files
from langchain_gpu.store import manifest as manifests
from langchain_gpu.store import mapped as mapping
from langchain_gpu.store.documents import Documents, Entry
from langchain_gpu.store.errors import DamagedStoreError
from langchain_gpu.store.mapped import MappedDocuments

EMBEDDING = DeterministicFakeEmbedding(size=16)
COUNT = 40
TEXT = st.text(max_size=5) | st.sampled_from(["\ud800", "\n", "\u2028", "é漢😀", '"\\'])


def write(folder: Path, documents: Documents) -> MappedDocuments:
    lines, places = folder / "documents.jsonl", folder / "places.npy"
    mapping.write_places(places, documents, files.write_lines(lines, documents.lines()))
    return MappedDocuments(lines, places, documents.next_row)


def numbered(count: int) -> Documents:
    documents = Documents(3)
    documents.append(
        [f"id{n}" for n in range(count)],
        [f"text {n}" for n in range(count)],
        [f'{{"n":{n}}}' for n in range(count)],
    )
    return documents


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(TEXT, TEXT, max_size=8), st.sets(st.integers(0, 7)))
def test_they_are_what_was_in_memory(tmp_path: Path, held: dict[str, str], gone: set[int]) -> None:
    documents = Documents(5)
    documents.append(list(held), list(held.values()), ["{}"] * len(held))
    documents.remove([5 + n for n in gone if n < len(held)])
    mapped = write(tmp_path, documents)
    every = documents.rows().tolist()
    assert len(mapped) == len(documents)
    assert mapped.rows().tolist() == every
    assert mapped.pick(every) == documents.pick(every)
    assert mapped.pick_ids(every[::-1]) == documents.pick_ids(every[::-1])
    for row in {*range(-1, documents.next_row + 2)} - {*every}:
        with pytest.raises(LookupError, match="are here"):
            mapped.pick([*every, row])
    assert {id_: mapped.get(id_) for id_ in held} == {id_: documents.get(id_) for id_ in held}
    assert mapped.get("never") is None
    asked = [*held, "never"]
    assert mapped.rows_of(asked).tolist() == documents.rows_of(asked).tolist()
    again = write(tmp_path, mapped.whole())  # as the next save of a changed store
    assert again.columns() == mapped.columns() == documents.columns()
    assert again.digests().tolist() == mapped.digests().tolist()


def test_a_mapped_table_is_written_as_it_is(tmp_path: Path) -> None:
    mapped = write(tmp_path, numbered(COUNT))
    lines, places = tmp_path / "other.jsonl", tmp_path / "other.npy"
    mapping.write_places(places, mapped, files.write_lines(lines, mapped.lines()))
    assert lines.read_bytes() == (tmp_path / "documents.jsonl").read_bytes()
    assert places.read_bytes() == (tmp_path / "places.npy").read_bytes()
    assert mapped._whole is None


def test_ids_of_one_digest_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "digest", lambda _: 7)
    monkeypatch.setattr(mapping, "digests", lambda held: np.full(len(held), 7, dtype=np.int64))
    mapped = write(tmp_path, numbered(COUNT))
    assert mapped.get("id13") == Entry("id13", "text 13", '{"n":13}')
    assert mapped.rows_of(["id39", "never", "id0"]).tolist() == [42, 3]


def test_nothing_is_read_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def parse_line(line: bytes) -> tuple[int, Entry]:
        row, entry = tables.parse_line(line)
        read.append(row)
        return row, entry

    saved(tmp_path)
    monkeypatch.setattr(mapping, "parse_line", parse_line)
    mapped = FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True, device="cpu")
    assert (len(mapped), read) == (COUNT, [])
    found = mapped.similarity_search("text 7", k=3)
    assert len(read) == 3
    assert found[0].page_content == "text 7"
    assert mapped.get_by_ids(["id5", "never"])[0].metadata == {"n": 5}
    assert len(read) == 4
    assert mapped.delete(["never"])
    assert mapped._collection._documents._whole is None


def saved(folder: Path) -> FAISSVectorStore:
    ours = FAISSVectorStore(EMBEDDING, device="cpu")
    numbers = range(COUNT)
    ours.add_texts(
        [f"text {n}" for n in numbers], [{"n": n} for n in numbers], ids=[f"id{n}" for n in numbers]
    )
    ours.save_local(folder)
    return ours


@pytest.mark.parametrize("older", [False, True])
def test_the_store_answers_as_the_one_in_memory(tmp_path: Path, *, older: bool) -> None:
    ours = saved(tmp_path)
    if older:
        as_format_1(tmp_path)
    mapped = FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True, device="cpu")
    for store in (ours, mapped):
        store.delete(["id1"])
        store.add_texts(["again"], ids=["id2"])
    mapped.save_local(tmp_path)
    for again in (
        mapped,
        FAISSVectorStore.load_local(tmp_path, EMBEDDING, device="cpu"),
        FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True, device="cpu"),
    ):
        assert list(again.iter_documents()) == list(ours.iter_documents())
        admitted = {"n": {"$lt": 9}}
        expected = ours.similarity_search("text 3", k=20, filter=admitted)
        assert again.similarity_search("text 3", k=20, filter=admitted) == expected
        assert again.hybrid_search("text 30", k=3) == ours.hybrid_search("text 30", k=3)
        assert again.get_by_ids(["id1", "id2"]) == ours.get_by_ids(["id2"])


def test_what_is_deleted_is_gone_before_anything_is_added(tmp_path: Path) -> None:
    saved(tmp_path)
    mapped = FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True, device="cpu")
    mapped.delete(["id1"])
    assert len(mapped) == COUNT - 1
    assert mapped.get_by_ids(["id1"]) == []
    assert {each.id for each in mapped.similarity_search("text 1", k=COUNT)} == {
        f"id{n}" for n in range(COUNT) if n != 1
    }
    mapped.save_local(tmp_path)
    again = FAISSVectorStore.load_local(tmp_path, EMBEDDING, device="cpu")
    assert (len(again), again.get_by_ids(["id1"])) == (COUNT - 1, [])


def as_format_1(folder: Path) -> None:
    """Make the folder what versions before the table of places wrote."""
    path = folder / manifests.NAME
    values = json.loads(path.read_text()) | {"format_version": 1}
    del values["places"]
    path.write_text(json.dumps(values))
    (folder / "places-1.npy").unlink()


def test_a_store_without_places_is_written_with_them(tmp_path: Path) -> None:
    saved(tmp_path)
    as_format_1(tmp_path)
    ours = FAISSVectorStore.load_local(tmp_path, EMBEDDING)
    assert not (tmp_path / "places-1.npy").exists()
    ours.save_local(tmp_path)
    assert (tmp_path / "places-2.npy").exists()
    assert manifests.read(tmp_path).places is not None


# Damage: sizes are compared at once, contents when they are read.


@pytest.mark.parametrize("name", ["documents-1.jsonl", "places-1.npy"])
@pytest.mark.parametrize("how", ["missing", "cut", "longer", "empty"])
def test_a_file_of_another_size_is_refused(tmp_path: Path, name: str, how: str) -> None:
    saved(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes({"cut": data[:-7], "longer": data + b"\n", "empty": b""}[how])
    with pytest.raises(DamagedStoreError, match=f"{name}.*({manifests.REMEDY})"):
        FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True)


def wrong_tables() -> Iterator[tuple[str, Any]]:
    yield "zeros", np.zeros_like
    yield "rows that fall", lambda table: np.concatenate([table[:1, ::-1], table[1:]])
    yield "a row that is not yet", lambda table: table + np.array([[COUNT], [0], [0], [0]])
    yield "a line before the file", lambda table: table - np.array([[0], [1], [0], [0]])
    yield "a line behind the file", lambda table: table * np.array([[1], [99], [1], [1]])


@pytest.mark.parametrize(("what", "change"), list(wrong_tables()))
def test_a_table_that_does_not_belong_is_refused(tmp_path: Path, what: str, change: Any) -> None:
    saved(tmp_path)
    path = tmp_path / "places-1.npy"
    size = path.stat().st_size
    np.save(path, change(np.load(path)).astype(np.int64))
    assert path.stat().st_size == size, what
    with pytest.raises(DamagedStoreError, match="does not belong to documents-1"):
        FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True)


@pytest.mark.parametrize("data", [b"\x00", b"\x93NUMPY\x01\x00"])
def test_a_table_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    saved(tmp_path)
    path = tmp_path / "places-1.npy"
    path.write_bytes(data.ljust(path.stat().st_size, b"\x00"))
    with pytest.raises(DamagedStoreError, match=r"documents-1\.jsonl"):
        FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True)


def test_a_line_that_was_changed_is_named_when_it_is_read(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "documents-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[7] = b"}" + lines[7][1:]
    lines[9] = lines[9].replace(b'"row":9', b'"row":8')
    path.write_bytes(b"".join(lines))
    mapped = FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True, device="cpu")
    assert mapped.similarity_search("text 3", k=1)[0].id == "id3"
    for ask in (
        lambda: mapped.similarity_search("text 7", k=1),
        lambda: mapped.get_by_ids(["id7"]),
        lambda: mapped.add_texts(["new"]),
        lambda: mapped.similarity_search("text 3", filter={"n": 3}),
    ):
        with pytest.raises(DamagedStoreError, match="line 8 is not a document") as raised:
            ask()
        assert manifests.REMEDY in str(raised.value)
    with pytest.raises(DamagedStoreError, match="line 10 has row 8"):
        mapped.get_by_ids(["id9"])
    assert len(mapped) == COUNT


def test_a_line_of_another_row_is_refused_before_a_filter_uses_it(tmp_path: Path) -> None:
    """Its text would be shown for the vector of that row."""
    ours = saved(tmp_path)
    ours.delete(["id8"])
    ours.save_local(tmp_path)
    path = tmp_path / "documents-2.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"row":9,', b'"row":8,'))
    mapped = FAISSVectorStore.load_local(tmp_path, EMBEDDING, mmap=True, device="cpu")
    with pytest.raises(DamagedStoreError, match="rows are not those of its table"):
        mapped.similarity_search("text 3", filter={"n": 9})
