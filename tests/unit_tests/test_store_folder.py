"""A store on disk: the old one or the new one after any crash, and a clear word for any damage."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import langchain_gpu
from langchain_gpu.search import kinds
from langchain_gpu.search.base import VectorIndex
from langchain_gpu.store import folder as folders
from langchain_gpu.store import lock
from langchain_gpu.store import manifest as manifests
from langchain_gpu.store.documents import Documents
from langchain_gpu.store.errors import (
    DamagedStoreError,
    StoreError,
    StoreNotFoundError,
    StoreVersionError,
)
from langchain_gpu.store.files import digest
from langchain_gpu.store.identity import Identity

IDENTITY = Identity("model", None, (1.0, 0.0))


def contents(count: int, first: int = 0) -> tuple[VectorIndex, Documents]:
    """Documents `first ... first + count - 1`; the vector of n is (n, 1)."""
    numbers = range(first, first + count)
    documents = Documents(first)
    documents.append([f"id{n}" for n in numbers], [f"text {n}" for n in numbers], ["{}"] * count)
    index = kinds.get("flat").create(2, "l2")
    vectors = np.array([[n, 1] for n in numbers], dtype=np.float32).reshape(-1, 2)
    index.add(np.arange(first, first + count, dtype=np.int64), vectors)
    return index, documents


def save(folder: Path, count: int) -> None:
    index, documents = contents(count)
    folders.save(folder, index=index, documents=documents, identity=IDENTITY)


def load(folder: Path) -> folders.Loaded[VectorIndex]:
    return folders.load(
        folder,
        read_index=lambda path, manifest: kinds.get(manifest.kind).load(path, "l2"),
        accept=lambda _manifest: None,
    )


def check(folder: Path, counts: set[int]) -> int:
    """Load, and see that every vector is on its document; return how many there are."""
    loaded = load(folder)
    count = len(loaded.documents)
    assert count in counts
    ids, texts, _ = loaded.documents.columns()
    rows = loaded.documents.rows()
    assert ids == [f"id{n}" for n in rows]
    assert texts == [f"text {n}" for n in rows]
    assert loaded.index.vectors(rows)[:, 0].tolist() == rows.tolist()
    return count


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != lock.NAME)


def files(generation: int) -> list[str]:
    mine = [f"documents-{generation}.jsonl", f"index-{generation}.faiss"]
    return [*mine, manifests.NAME, f"places-{generation}.npy"]


def test_saved_and_loaded(tmp_path: Path) -> None:
    save(tmp_path / "new" / "folder", 5)
    assert check(tmp_path / "new" / "folder", {5}) == 5
    manifest = load(tmp_path / "new" / "folder").manifest
    assert (manifest.kind, manifest.metric, manifest.dimension) == ("flat", "l2", 2)
    assert (manifest.generation, manifest.next_row, manifest.identity) == (1, 5, IDENTITY)


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    save(tmp_path, 0)
    check(tmp_path, {0})


def test_each_save_leaves_one_generation_and_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for count in (3, 4, 5):
        save(tmp_path, count)
    assert names(tmp_path) == sorted([*files(3), "notes.txt"])
    check(tmp_path, {5})


def test_leftovers_of_a_crash_are_overwritten_and_removed(tmp_path: Path) -> None:
    save(tmp_path, 3)
    for name in (
        "index-2.faiss",
        "documents-2.jsonl",
        "places-2.npy",
        "manifest-2.tmp",
        "index-7.faiss",
    ):
        (tmp_path / name).write_text("half written")
    save(tmp_path, 4)
    assert names(tmp_path) == files(2)
    check(tmp_path, {4})


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    save(tmp_path / "link", 3)
    check(tmp_path / "real", {3})
    assert (tmp_path / "link").is_symlink()


class Crash(BaseException):
    """The process ends here: no `except Exception` sees it."""


@contextmanager
def failing(step: int, *, lasting: bool, error: BaseException) -> Iterator[list[str]]:
    """Let the `step`-th call that touches the disk fail; if `lasting`, all later ones too."""
    calls: list[str] = []

    def watch(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == step or (lasting and len(calls) > step):
                raise error
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [
            (os, "fsync"),
            (os, "replace"),
            (os, "open"),
            (Path, "open"),
            (Path, "write_text"),
            (Path, "unlink"),
            (Path, "iterdir"),
            (Path, "mkdir"),
        ]:
            patch.setattr(owner, name, watch(name, getattr(owner, name)))
        yield calls


@pytest.mark.parametrize(
    ("lasting", "error"),
    [(False, OSError(28, "No space left on device")), (True, Crash())],
    ids=["disk full", "crash"],
)
def test_a_failure_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path,
    lasting: bool,  # noqa: FBT001 - a table's column
    error: BaseException,
) -> None:
    seen = set()
    for step in range(1, 100):
        folder = tmp_path / str(step)
        save(folder, 3)
        index, documents = contents(5)
        with failing(step, lasting=lasting, error=error) as calls:
            try:
                folders.save(folder, index=index, documents=documents, identity=IDENTITY)
                finished = True
            except type(error):
                finished = False
        count = check(folder, {5} if finished else {3, 5})
        seen.add((finished, count))
        save(folder, 6)
        check(folder, {6})
        if len(calls) < step:
            break
    assert step > 12, "the steps of a save were not seen"
    assert "replace" in calls
    assert {(False, 3), (True, 5)} <= seen


def test_what_the_manifest_names_stays_when_the_rename_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 3)
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 5)
    assert len(load(tmp_path).documents) == 5


def test_a_failed_first_save_leaves_nothing_to_load(tmp_path: Path) -> None:
    index, documents = contents(5)
    error = OSError(28, "No space left on device")
    with failing(4, lasting=False, error=error), pytest.raises(OSError, match="No space"):
        folders.save(tmp_path, index=index, documents=documents, identity=IDENTITY)
    assert names(tmp_path) == []
    with pytest.raises(StoreNotFoundError):
        load(tmp_path)


@pytest.mark.parametrize("limit", [0, 100, 1000, 5000])
def test_a_disk_that_takes_no_more(tmp_path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource", reason="no limit on a file's size")
    save(tmp_path, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    index, documents = contents(2000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            folders.save(tmp_path, index=index, documents=documents, identity=IDENTITY)
        assert str(tmp_path) in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check(tmp_path, {3})
    assert names(tmp_path) == files(1)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit_tests.test_store_folder import save
count = int(sys.argv[3])
while True:
    count += 1
    save(Path(sys.argv[2]), count)
    print(count, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_writer_leaves_everything_it_had_saved(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    saved = 0
    for saves in (1, 6, 13):
        with subprocess.Popen(  # noqa: S603 - this interpreter, a fixed script
            [sys.executable, "-c", WRITER, str(root), str(tmp_path), str(saved)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(saves):
                saved = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:
                saved = int(line)
        saved = check(tmp_path, {saved, saved + 1})


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        save(tmp_path / "file", 1)
    with pytest.raises(StoreNotFoundError):
        load(tmp_path / "file")


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 3)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            save(tmp_path, 4)
    finally:
        tmp_path.chmod(0o700)
    check(tmp_path, {3})


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StoreNotFoundError, match=r"manifest\.json is missing.*save_local"):
            load(folder)


def test_a_pickled_store_is_named_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "index.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(StoreNotFoundError, match="from_community.*run no pickle"):
        load(tmp_path)


def change(folder: Path, **values: Any) -> None:
    path = folder / manifests.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generation": "1"}, "'generation' is '1'"),
        ({"count": True}, "'count' is True"),
        ({"count": 4}, "3 documents and 3 vectors, the manifest says 4"),
        ({"dimension": 3}, "has 2 dimensions, the manifest says 3"),
        ({"next_row": 2}, "line 3 has row 2, which is out of order"),
        ({"kind": "ivf"}, "unknown index kind 'ivf'"),
        ({"identity": None}, "'identity' is None"),
        ({"identity": {"model": 3, "revision": None, "probe": [], "text": ""}}, "'model' is 3"),
        (
            {"identity": {"model": "m", "revision": None, "probe": [[]], "text": ""}},
            "is not a manifest",
        ),
        (
            {"identity": {"model": "m", "revision": None, "probe": ["x"], "text": ""}},
            "is not a manifest",
        ),
        ({"index": {"name": "../index-1.faiss", "size": 1, "sha256": ""}}, r"'\.\./index-1.faiss'"),
        ({"index": {"name": "/etc/passwd", "size": 1, "sha256": ""}}, "'/etc/passwd'"),
        ({"documents": {"name": "documents-2.jsonl", "size": 1, "sha256": ""}}, "documents-2"),
        ({"documents": {"name": "documents-1.jsonl", "size": 1}}, "'sha256'"),
        ({"places": {"name": "places-2.npy", "size": 1, "sha256": ""}}, "places-2"),
        ({"places": 3}, "'places' is 3"),
        ({"format_version": 0.5}, "'format_version' is 0.5"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    save(tmp_path, 3)
    change(tmp_path, **values)
    with pytest.raises(DamagedStoreError, match=message) as raised:
        load(tmp_path)
    assert manifests.REMEDY in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "\ud800", "[" * 100_000])
def test_a_manifest_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    save(tmp_path, 3)
    (tmp_path / manifests.NAME).write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DamagedStoreError, match=re.escape(str(tmp_path / "manifest.json"))):
        load(tmp_path)


def test_a_newer_format_asks_for_an_upgrade_and_is_not_overwritten(tmp_path: Path) -> None:
    save(tmp_path, 3)
    change(tmp_path, format_version=manifests.FORMAT + 1)
    before = names(tmp_path)
    for attempt in (load, lambda folder: save(folder, 4)):
        with pytest.raises(StoreVersionError, match="format 3.*reads up to 2.*--upgrade"):
            attempt(tmp_path)
    assert names(tmp_path) == before


def test_a_damaged_store_is_not_overwritten(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (tmp_path / manifests.NAME).write_text("{")
    with pytest.raises(DamagedStoreError):
        save(tmp_path, 4)
    assert names(tmp_path) == files(1)


@pytest.mark.parametrize("name", ["index-1.faiss", "documents-1.jsonl", "places-1.npy"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "changed", "longer"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, how: str) -> None:
    save(tmp_path, 30)
    path = tmp_path / name
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        changed = bytes([data[0] ^ 1]) + data[1:]
        made = {"cut": data[:-7], "empty": b"", "changed": changed, "longer": data + b"\n"}
        path.write_bytes(made[how])
    word = {"missing": "missing", "changed": "SHA-256 differs"}.get(how, "bytes")
    with pytest.raises(DamagedStoreError, match=f"{re.escape(str(path))}.*{word}") as raised:
        load(tmp_path)
    assert manifests.REMEDY in str(raised.value)


def test_the_manifest_of_another_store_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "one", 3)
    save(tmp_path / "two", 4)
    (tmp_path / "two" / manifests.NAME).replace(tmp_path / "one" / manifests.NAME)
    with pytest.raises(DamagedStoreError, match="bytes"):
        load(tmp_path / "one")


def reseal(folder: Path) -> None:
    """Make the manifest agree with files that were exchanged: only the contents can tell."""
    sealed = {
        key: {"name": name, "size": found.size, "sha256": found.sha256}
        for key, name in [("index", "index-1.faiss"), ("documents", "documents-1.jsonl")]
        for found in [digest(folder / name, name)]
    }
    change(folder, **sealed)


def test_vectors_of_other_documents_are_noticed(tmp_path: Path) -> None:
    save(tmp_path, 4)
    contents(4, first=2)[0].save(tmp_path / "index-1.faiss")
    reseal(tmp_path)
    with pytest.raises(DamagedStoreError, match="different rows"):
        load(tmp_path)
    contents(3)[0].save(tmp_path / "index-1.faiss")
    reseal(tmp_path)
    with pytest.raises(DamagedStoreError, match="4 documents and 3 vectors"):
        load(tmp_path)


def test_an_index_faiss_cannot_read_is_named(tmp_path: Path) -> None:
    save(tmp_path, 4)
    (tmp_path / "index-1.faiss").write_bytes(b"IxM2 and then nothing")
    reseal(tmp_path)
    with pytest.raises(DamagedStoreError, match=r"index-1\.faiss cannot be read"):
        load(tmp_path)


def test_a_save_during_a_load_is_followed(tmp_path: Path) -> None:
    """Another process saves after the manifest was read: its files are gone, the new ones load."""
    save(tmp_path, 3)
    seen: list[int] = []

    def accept(manifest: manifests.Manifest) -> None:
        seen.append(manifest.generation)
        if len(seen) == 1:
            save(tmp_path, 5)

    loaded = folders.load(
        tmp_path, read_index=lambda path, _: kinds.get("flat").load(path, "l2"), accept=accept
    )
    assert (seen, len(loaded.documents)) == ([1, 2], 5)


def test_every_error_is_a_value_error() -> None:
    for error in (DamagedStoreError, StoreNotFoundError, StoreVersionError):
        assert issubclass(error, StoreError)
        assert issubclass(error, ValueError)


def test_nothing_in_the_package_can_unpickle() -> None:
    package = Path(langchain_gpu.__file__).parent
    banned = re.compile(r"\b(import|from)\s+(pickle|cloudpickle|dill|marshal|shelve)\b")
    users = [path.name for path in package.rglob("*.py") if banned.search(path.read_text())]
    assert users == []
