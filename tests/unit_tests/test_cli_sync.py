"""A store follows its files: what changed is done again, nothing else is, nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu.cli import sync as module
from langchain_gpu.cli.stored_files import gone_files, stored_under
from langchain_gpu.cli.sync import Cut, Summary, sync
from langchain_gpu.loaders import Chunker, Found, find_files
from langchain_gpu.vectorstores import FAISSVectorStore


class CountingEmbedding(DeterministicFakeEmbedding):
    """Remembers what it embedded; fails where it is told to."""

    model: str = "fake"
    size: int = 8
    texts: list[str] = []  # noqa: RUF012 - pydantic copies defaults
    fails_on: str | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        for text in texts:
            if self.fails_on is not None and self.fails_on in text:
                raise KeyboardInterrupt
        self.texts += texts
        return super().embed_documents(texts)


class Watcher:
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.files = 0

    def embedding(self, files: int, chunks: int) -> None:
        """Take no note."""

    def done(self, files: int) -> None:
        self.files += files


class Folder:
    """A folder, a store on disk, and runs of `sync` as the command makes them."""

    def __init__(self, root: Path) -> None:
        self.docs = root / "docs"
        self.docs.mkdir()
        self.store = root / "store"
        self.embedding = CountingEmbedding()
        self.saves = 0

    def write(self, name: str, text: str) -> Path:
        path = self.docs / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def load(self) -> FAISSVectorStore:
        if (self.store / "manifest.json").exists():
            return FAISSVectorStore.load_local(self.store, self.embedding)
        return FAISSVectorStore(self.embedding)

    def sync(
        self, *paths: Path, size: int = 100, on_save: Callable[[], None] | None = None
    ) -> Summary:
        store = self.load()

        def save() -> None:
            self.saves += 1
            store.save_local(self.store)
            if on_save is not None:
                on_save()

        self.embedding.texts.clear()
        under = list(paths or [self.docs])
        found = find_files(under, exclude=[self.store])
        watcher = Watcher()
        cut = Cut(lambda: Chunker(size=size, overlap=0), str(size))
        summary = sync(store, found, under, cut=cut, save=save, watcher=watcher)
        assert watcher.files == len(found.files)
        return summary

    def stored(self) -> dict[str, str]:
        """Return the text of every file in the saved store."""
        texts: dict[str, str] = {}
        for document in sorted(self.load().iter_documents(), key=lambda d: d.metadata["start"]):
            name = os.path.relpath(document.metadata["source"], self.docs)
            texts[name] = texts.get(name, "") + document.page_content
        return texts


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.added, summary.updated, summary.deleted, summary.unchanged


def test_only_what_changed_is_done_again(folder: Folder) -> None:
    for name in ("a.md", "b.txt", "sub/c.txt"):
        folder.write(name, f"text of {name}")
    assert counts(folder.sync()) == (3, 0, 0, 0)
    assert counts(folder.sync()) == (0, 0, 0, 3)
    assert folder.embedding.texts == []
    folder.write("a.md", "new text of a")
    folder.write("d.md", "text of d")
    (folder.docs / "b.txt").unlink()
    assert counts(folder.sync()) == (1, 1, 1, 1)
    assert sorted(folder.embedding.texts) == ["new text of a", "text of d"]
    assert folder.stored() == {
        "a.md": "new text of a",
        "d.md": "text of d",
        "sub/c.txt": "text of sub/c.txt",
    }


def test_a_run_without_changes_saves_and_cuts_nothing(folder: Folder) -> None:
    folder.write("a.md", "text")
    folder.sync()
    before = sorted(path.name for path in folder.store.iterdir())

    def never() -> NoReturn:
        raise AssertionError("nothing is to be cut")

    store = folder.load()
    found = find_files([folder.docs])
    sync(store, found, [folder.docs], cut=Cut(never, "100"), save=never, watcher=Watcher())
    assert sorted(path.name for path in folder.store.iterdir()) == before


def test_a_touched_file_is_unchanged(folder: Folder) -> None:
    path = folder.write("a.md", "text")
    folder.sync()
    os.utime(path, (1, 1))
    assert counts(folder.sync()) == (0, 0, 0, 1)


def test_a_shorter_file_leaves_no_old_chunks(folder: Folder) -> None:
    folder.write("a.txt", "\n\n".join(f"paragraph {i} " + "x" * 60 for i in range(5)))
    assert folder.sync().chunks == 5
    folder.write("a.txt", "short")
    assert counts(folder.sync()) == (0, 1, 0, 0)
    assert folder.stored() == {"a.txt": "short"}


def test_other_sizes_cut_everything_again(folder: Folder) -> None:
    folder.write("a.txt", "word " * 50)
    folder.sync(size=100)
    assert counts(folder.sync(size=50)) == (0, 1, 0, 0)


def test_what_was_indexed_from_elsewhere_stays(folder: Folder) -> None:
    one, two = folder.write("one/a.md", "a"), folder.write("two/b.md", "b")
    folder.sync(one.parent)
    assert counts(folder.sync(two.parent)) == (1, 0, 0, 0)
    two.unlink()
    other = folder.write("two/c.md", "c")
    assert counts(folder.sync(other.parent)) == (1, 0, 1, 0)
    assert folder.stored() == {"one/a.md": "a", "two/c.md": "c"}
    assert stored_under(folder.load(), [folder.docs / "one"]) == 1
    assert stored_under(folder.load(), [folder.docs / "on"]) == 0


def test_what_is_gone_is_found_under_each_of_many_paths(tmp_path: Path) -> None:
    known = [f"{tmp_path}/docs/{n}/a.txt" for n in range(3)] + [f"{tmp_path}/docs.txt", "elsewhere"]
    found = Found(files=(), failed=(), left_out={})
    every = [tmp_path / "docs" / "0", tmp_path / "docs" / "2" / "a.txt", tmp_path / "docs.txt"]
    assert gone_files(known, found, every) == [known[0], known[2], known[3]]
    assert gone_files(known, found, [Path(os.sep)]) == known[:4], "all but what is no path"
    assert gone_files(known, found, [tmp_path / "doc"]) == []


def test_documents_of_others_stay(folder: Folder) -> None:
    store = folder.load()
    store.add_documents([Document("mine", id="1", metadata={"source": str(folder.docs / "x.md")})])
    store.save_local(folder.store)
    folder.write("a.md", "a")
    folder.sync()
    assert [d.page_content for d in folder.load().get_by_ids(["1"])] == ["mine"]


def test_a_file_that_lost_its_text_is_deleted(folder: Folder) -> None:
    folder.write("a.md", "text")
    folder.write("b.md", "  \n")
    first = folder.sync()
    assert (counts(first), first.empty) == ((1, 0, 0, 0), 1)
    folder.write("a.md", "")
    assert counts(folder.sync()) == (0, 0, 1, 0)
    assert folder.stored() == {}


def test_a_file_that_cannot_be_read_keeps_what_is_stored(folder: Folder) -> None:
    folder.write("a.txt", "readable")
    folder.write("b.txt", "b")
    folder.sync()
    (folder.docs / "a.txt").write_bytes(b"\x00\x01")
    summary = folder.sync()
    assert (counts(summary), len(summary.failed)) == ((0, 0, 0, 1), 1)
    assert summary.failed[0].source.endswith("a.txt")
    assert "binary" in summary.failed[0].error
    assert folder.stored()["a.txt"] == "readable"


def test_a_link_that_broke_keeps_what_is_stored(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "target.md"
    target.write_text("linked")
    (folder.docs / "link.md").symlink_to(target)
    folder.sync()
    target.unlink()
    summary = folder.sync()
    assert (counts(summary), len(summary.failed)) == ((0, 0, 0, 0), 1)
    assert folder.stored() == {"link.md": "linked"}


def test_an_interruption_leaves_the_last_save(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "SAVE_AFTER", 0.0)
    monkeypatch.setattr(module, "SAVE_SHARE", 0)
    folder.write("old.md", "old")
    folder.sync()
    for i in range(6):
        folder.write(f"{i}.md", f"text {i}")
    folder.embedding.fails_on = "text 5"
    with pytest.raises(KeyboardInterrupt):
        folder.sync()
    stored = folder.stored()
    assert stored["old.md"] == "old"
    assert len(stored) in {5, 6}, "finished batches were saved"
    folder.embedding.fails_on = None
    assert folder.sync().added == 7 - len(stored)
    assert set(folder.stored()) == {"old.md", *(f"{i}.md" for i in range(6))}


def test_a_file_is_never_torn_apart(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "SAVE_AFTER", 0.0)
    monkeypatch.setattr(module, "SAVE_SHARE", 0)
    for i in range(3):
        folder.write(f"{i}.txt", "\n\n".join(f"{i} {j} " + "x" * 60 for j in range(4)))
    seen: list[int] = []
    folder.sync(on_save=lambda: seen.append(len(folder.load())))
    assert seen == [4, 8, 12]


def lines(folder: Folder, *numbers: int) -> None:
    """Write a file of as many chunks."""
    folder.write("log.jsonl", "".join(f'{{"text": "line {number}"}}\n' for number in numbers))


def test_of_a_file_that_grew_only_what_is_new_is_embedded(folder: Folder) -> None:
    lines(folder, *range(6))
    folder.sync()
    before = {d.id: d for d in folder.load().iter_documents()}
    lines(folder, *range(5), 7, 8)
    assert counts(folder.sync()) == (0, 1, 0, 0)
    # The first chunk says which state of the file the store has.
    assert [each.rpartition(" ")[2] for each in folder.embedding.texts] == ["0", "7", "8"]
    after = {d.id: d for d in folder.load().iter_documents()}
    assert len(after) == 7
    unchanged = [id_ for id_ in before if before[id_] == after.get(id_)]
    assert len(unchanged) == 4
    assert counts(folder.sync()) == (0, 0, 0, 1)
    lines(folder, 0, 1)
    folder.sync()
    assert len(folder.load()) == 2


def test_a_very_large_file_goes_on_where_it_was_interrupted(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH": 2, "TORN": 3, "SAVE_AFTER": 0.0, "SAVE_SHARE": 0}.items():
        monkeypatch.setattr(module, name, value)
    folder.write("before.txt", "before")
    lines(folder, *range(9))
    folder.embedding.fails_on = "line 6"
    with pytest.raises(KeyboardInterrupt):
        folder.sync()
    assert 4 <= len(folder.load()) < 9, "finished parts were saved"
    folder.embedding.fails_on = None
    summary = folder.sync()
    texts = [each for each in folder.embedding.texts if each.startswith("text: line")]
    assert 0 < len(texts) <= 5, "what was saved was not embedded again"
    assert counts(summary) in {(2, 0, 0, 0), (1, 0, 0, 1)}, "new, though a part was there"
    found = {d.id: d.page_content for d in folder.load().iter_documents()}
    source = str(folder.docs / "log.jsonl")
    assert [found[f"{source}#{n}"] for n in range(9)] == [f"text: line {n}" for n in range(9)]
    assert folder.sync().unchanged == 2


def test_a_file_that_changed_after_an_interruption_is_not_mixed_up(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH": 2, "TORN": 3, "SAVE_AFTER": 0.0, "SAVE_SHARE": 0}.items():
        monkeypatch.setattr(module, name, value)
    lines(folder, *range(9))
    folder.sync()
    lines(folder, *range(10, 20))
    folder.embedding.fails_on = "line 16"
    with pytest.raises(KeyboardInterrupt):
        folder.sync()
    folder.embedding.fails_on = None
    lines(folder, *range(9))  # as it was at first
    assert counts(folder.sync()) == (1, 0, 0, 0), "the store had only a part of it"
    texts = sorted(d.page_content for d in folder.load().iter_documents())
    assert texts == [f"text: line {n}" for n in range(9)]


def test_no_state_is_saved_that_holds_a_new_file_and_chunks_of_the_old(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH": 2, "TORN": 3, "SAVE_AFTER": 0.0, "SAVE_SHARE": 0}.items():
        monkeypatch.setattr(module, name, value)
    lines(folder, *range(9))
    folder.sync()
    lines(folder, *range(20, 25))

    def look() -> None:
        texts = [d.page_content for d in folder.load().iter_documents()]
        assert "text: line 20" not in texts or len(texts) == 5

    folder.sync(on_save=look)
    assert len(folder.load()) == 5


def test_a_store_whose_chunks_all_have_their_files_fingerprint_is_known(folder: Folder) -> None:
    lines(folder, *range(4))
    folder.sync()
    store = folder.load()
    documents = list(store.iter_documents())
    first = next(d for d in documents if str(d.id).endswith("#0"))
    for document in documents:
        document.metadata["fingerprint"] = first.metadata["fingerprint"]
    store.add_documents(documents)
    store.save_local(folder.store)
    assert counts(folder.sync()) == (0, 0, 0, 1)
    lines(folder, *range(5))
    folder.sync()
    assert len(folder.load()) == 5
