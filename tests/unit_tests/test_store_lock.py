"""Two writers of one folder, readers beside them, vectors left in the file, and older formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu import FAISSVectorStore
from langchain_gpu.events import GPUWarning
from langchain_gpu.search import kinds
from langchain_gpu.store import lock
from langchain_gpu.store import manifest as manifests
from langchain_gpu.store.errors import (
    DamagedStoreError,
    StoreChangedError,
    StoreLockedError,
    StoreVersionError,
)

EMBEDDING = DeterministicFakeEmbedding(size=16)
ROOT = Path(__file__).parents[2]


def store(*texts: str, **options: Any) -> FAISSVectorStore:
    return FAISSVectorStore.from_texts(list(texts), EMBEDDING, ids=list(texts), **options)


def load(folder: Path, **options: Any) -> FAISSVectorStore:
    return FAISSVectorStore.load_local(folder, EMBEDDING, **options)


def texts(folder: Path) -> set[str]:
    return {document.page_content for document in load(folder).iter_documents()}


# Two writers.


def test_the_second_writer_does_not_replace_the_first(tmp_path: Path) -> None:
    store("a").save_local(tmp_path)
    first, second = load(tmp_path), load(tmp_path)
    first.add_texts(["b"])
    first.save_local(tmp_path)
    second.add_texts(["c"])
    with pytest.raises(StoreChangedError, match="generation 2 with 2 documents.*Load it again"):
        second.save_local(tmp_path)
    assert texts(tmp_path) == {"a", "b"}

    again = load(tmp_path)  # the remedies
    again.merge_from(second)
    again.save_local(tmp_path)
    assert texts(tmp_path) == {"a", "b", "c"}
    second.save_local(tmp_path / "other")
    assert texts(tmp_path / "other") == {"a", "c"}
    second.save_local(tmp_path, overwrite=True)
    second.add_texts(["d"])
    second.save_local(tmp_path)
    assert texts(tmp_path) == {"a", "c", "d"}


def test_a_new_store_replaces_and_then_knows(tmp_path: Path) -> None:
    first, second = store("a"), store("b")
    first.save_local(tmp_path)
    first.save_local(tmp_path)
    second.save_local(tmp_path)
    with pytest.raises(StoreChangedError):
        first.save_local(tmp_path)
    assert texts(tmp_path) == {"b"}


def test_a_new_store_that_is_to_overwrite_nothing(tmp_path: Path) -> None:
    first, second = store("a"), store("b")
    first.save_local(tmp_path, overwrite=False)
    first.save_local(tmp_path, overwrite=False)
    with pytest.raises(StoreChangedError, match="knows no store there"):
        second.save_local(tmp_path, overwrite=False)
    assert texts(tmp_path) == {"a"}


def test_a_folder_is_known_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    ours = store("a")
    ours.save_local(tmp_path / "link")
    store("b").save_local(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreChangedError):
        ours.save_local("real")


def test_a_folder_made_anew_is_another_store(tmp_path: Path) -> None:
    ours = store("a")
    ours.save_local(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    store("b").save_local(tmp_path)  # generation 1 once more
    with pytest.raises(StoreChangedError):
        ours.save_local(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    ours.save_local(tmp_path)  # nothing is there to be lost
    assert texts(tmp_path) == {"a"}


def test_writers_of_many_threads_come_one_by_one(tmp_path: Path) -> None:
    stores = [store(f"text {n}") for n in range(8)]
    failures: list[BaseException] = []

    def write(ours: FAISSVectorStore) -> None:
        try:
            for _ in range(4):
                ours.save_local(tmp_path, overwrite=True)
                assert len(load(tmp_path)) == 1
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=write, args=[ours]) for ours in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert manifests.read(tmp_path).generation == 32


# A writer that holds the lock, in another process.

HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from langchain_gpu.store.lock import locked
with locked(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(  # noqa: S603 - this interpreter, a fixed script
        [sys.executable, "-c", HOLDER, str(ROOT), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_writer_waits_and_readers_do_not(tmp_path: Path) -> None:
    ours = store("a")
    ours.save_local(tmp_path)
    ours.add_texts(["b"])
    with held(tmp_path) as holder:
        with pytest.raises(StoreLockedError, match="saving to .* for 0.1 seconds: try again"):
            ours.save_local(tmp_path, timeout=0.1)
        assert texts(tmp_path) == {"a"}
        assert len(load(tmp_path, mmap=True)) == 1
        thread = threading.Thread(target=ours.save_local, args=[tmp_path])
        thread.start()
        assert holder.stdin is not None
        holder.stdin.close()
        thread.join()
    assert texts(tmp_path) == {"a", "b"}


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_lock_of_the_dead_keeps_nobody_out(tmp_path: Path) -> None:
    store("a").save_local(tmp_path)
    with held(tmp_path) as holder:
        holder.kill()
        holder.wait()
        assert (tmp_path / lock.NAME).exists()
        store("b").save_local(tmp_path, timeout=5)
    assert texts(tmp_path) == {"b"}


# Two writers who load again when they are told to: nothing of either is lost.

PAIR = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.unit_tests.test_store_lock import load
from langchain_gpu.store.errors import StoreChangedError
print("ready", flush=True)
sys.stdin.readline()
told = 0
for n in range(12):
    while True:
        ours = load(sys.argv[2])
        ours.add_texts([f"{sys.argv[3]} {n}"])
        try:
            ours.save_local(sys.argv[2])
            break
        except StoreChangedError:
            told += 1
print(told, flush=True)
"""


def test_two_processes_that_load_again_lose_nothing(tmp_path: Path) -> None:
    store("first").save_local(tmp_path)
    writers = [
        subprocess.Popen(  # noqa: S603 - this interpreter, a fixed script
            [sys.executable, "-c", PAIR, str(ROOT), str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert texts(tmp_path) == {"first"} | {f"{w} {n}" for w in ("left", "right") for n in range(12)}
    assert manifests.read(tmp_path).generation == 25


def test_loading_writes_nothing(tmp_path: Path) -> None:
    store("a").save_local(tmp_path)
    (tmp_path / lock.NAME).unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    load(tmp_path).similarity_search("a")
    load(tmp_path, mmap=True).similarity_search("a")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_for_reading_only(tmp_path: Path) -> None:
    store("a").save_local(tmp_path)
    tmp_path.chmod(0o500)
    try:
        ours = load(tmp_path)
        (tmp_path / lock.NAME).chmod(0o400)
        with pytest.raises(PermissionError):
            ours.save_local(tmp_path, timeout=1)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / lock.NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=lock.NAME):
        store("a").save_local(tmp_path / "store", timeout=1)
    assert (tmp_path / "victim").read_text() == "mine"


def test_without_filelock_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = store("a")
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(ImportError, match=r'pip install "langchain-gpu\[faiss\]"'):
        ours.save_local(tmp_path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(GPUWarning, match="has no locks"):
        store("a").save_local(tmp_path)
    assert texts(tmp_path) == {"a"}


# Vectors that stay in their file.

MAPPED = ["flat", "fp16", "SQ8", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ4x4", "hnsw"]
COUNT = 200
NAMES = [f"text {n}" for n in range(COUNT)]


def saved(folder: Path, kind: str) -> FAISSVectorStore:
    options = {"train_size": 100} if kind.startswith(("IVF", "SQ8")) else {}
    ours = store(*NAMES, index=kind, device="cpu", metric="l2", **options)
    ours.save_local(folder)
    return ours


def found(ours: FAISSVectorStore) -> list[list[str]]:
    queries = [f"query {n}" for n in range(10)]
    return [
        [document.page_content for document, _ in row]
        for row in ours.similarity_search_many(queries, k=5)
    ]


@pytest.mark.parametrize("kind", MAPPED)
def test_mapped_vectors_answer_as_loaded_ones(kind: str, tmp_path: Path) -> None:
    ours = saved(tmp_path, kind)
    mapped = load(tmp_path, mmap=True, device="cpu")
    assert mapped.index_shape == ours.index_shape
    if sys.platform == "linux":
        assert "index-1.faiss" in Path("/proc/self/maps").read_text()
    assert found(mapped) == found(ours)
    chosen = mapped.max_marginal_relevance_search("query 1", k=3)
    assert chosen == ours.max_marginal_relevance_search("query 1", k=3)


@pytest.mark.parametrize("kind", MAPPED)
@pytest.mark.parametrize("change", ["add", "delete", "upsert", "merge"])
def test_a_change_reads_them_into_memory(kind: str, change: str, tmp_path: Path) -> None:
    ours = saved(tmp_path, kind)
    mapped = load(tmp_path, mmap=True, device="cpu")
    ours.save_local(tmp_path)  # and the file is gone
    assert not (tmp_path / "index-1.faiss").exists()
    for changed in (ours, mapped):
        if change == "add":
            changed.add_texts(["query 3"], ids=["new"])
        elif change == "delete":
            changed.delete(NAMES[:50])
        elif change == "upsert":
            changed.add_texts(["query 3"], ids=["text 7"])
        else:
            changed.merge_from(store("query 3", metric="l2"))
    assert found(mapped) == found(ours)
    mapped.delete(["text 9"])
    assert len(mapped) == len(ours) - (change != "delete")


@pytest.mark.parametrize("kind", MAPPED)
def test_a_mapped_store_is_saved_where_it_lies(kind: str, tmp_path: Path) -> None:
    ours = saved(tmp_path, kind)
    mapped = load(tmp_path, mmap=True, device="cpu")
    mapped.save_local(tmp_path)
    mapped.save_local(tmp_path / "other")
    for folder in (tmp_path, tmp_path / "other"):
        assert found(load(folder, device="cpu")) == found(ours)
    assert found(mapped) == found(ours)


def test_an_empty_store_is_mapped(tmp_path: Path) -> None:
    FAISSVectorStore(EMBEDDING).save_local(tmp_path)
    mapped = load(tmp_path, mmap=True)
    assert mapped.similarity_search("a") == []
    mapped.add_texts(["a"])
    assert len(mapped) == 1


@pytest.mark.parametrize("cut", [0, 10, 1000])
def test_a_cut_index_is_noticed_without_reading_it(cut: int, tmp_path: Path) -> None:
    saved(tmp_path, "flat")
    path = tmp_path / "index-1.faiss"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DamagedStoreError, match="were written: it is cut off or replaced"):
        load(tmp_path, mmap=True)


@pytest.mark.parametrize("kind", MAPPED)
def test_an_index_that_is_another_of_the_same_size(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, kind)
    path = tmp_path / "index-1.faiss"
    path.write_bytes(b"\x00" * path.stat().st_size)
    with pytest.raises(DamagedStoreError, match="cannot be read"):
        load(tmp_path, mmap=True)


def test_reading_into_memory_is_done_beside_the_searches(tmp_path: Path) -> None:
    saved(tmp_path, "flat")
    index = kinds.get("flat").load(tmp_path / "index-1.faiss", "l2", mapped=True)
    rows = index.rows()
    before = index.vectors(rows)
    take_over = index.improve(before[:1])
    assert take_over is not None
    (tmp_path / "index-1.faiss").unlink()
    np.testing.assert_array_equal(index.vectors(rows), before)
    take_over()
    assert index.improve(before[:1]) is None
    index.add(np.array([COUNT], dtype=np.int64), before[:1])
    np.testing.assert_array_equal(index.vectors(np.append(rows, COUNT))[:-1], before)


def test_searches_go_on_while_a_mapped_index_is_read(tmp_path: Path) -> None:
    ours = saved(tmp_path, "flat")
    expected = found(ours)
    mapped = load(tmp_path, mmap=True, device="cpu")
    failures: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                assert found(mapped) == expected
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    far = np.full((1, 16), 1e6, dtype=np.float32)
    for n in range(10):
        mapped.add_embeddings([("far", far[0])], ids=[f"far {n}"])
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []


# Formats.


def test_an_older_format_is_read_and_written_as_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("a").save_local(tmp_path)

    def rename(values: dict[str, Any]) -> dict[str, Any]:
        assert values["format_version"] == 2
        return values | {"next_row": values["next_row"] + 5}

    monkeypatch.setattr(manifests, "FORMAT", 4)
    monkeypatch.setattr(manifests, "UPGRADES", {2: rename, 3: lambda values: values})
    before = (tmp_path / manifests.NAME).read_bytes()
    ours = load(tmp_path)
    assert manifests.read(tmp_path).next_row == 6
    assert (tmp_path / manifests.NAME).read_bytes() == before
    ours.save_local(tmp_path)
    assert json.loads((tmp_path / manifests.NAME).read_bytes())["format_version"] == 4
    assert texts(tmp_path) == {"a"}
    monkeypatch.undo()
    with pytest.raises(StoreVersionError, match="pip install --upgrade langchain-gpu"):
        load(tmp_path)


@pytest.mark.parametrize("version", [0, -1])
def test_a_format_that_never_was(version: int, tmp_path: Path) -> None:
    store("a").save_local(tmp_path)
    path = tmp_path / manifests.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    with pytest.raises(DamagedStoreError, match="is not a manifest"):
        load(tmp_path)


def test_every_format_has_its_upgrade() -> None:
    assert sorted(manifests.UPGRADES) == list(range(1, manifests.FORMAT))
