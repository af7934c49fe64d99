"""Which files an index takes, and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from langchain_gpu.loaders import find_files


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")


def names(root: Path, *paths: Path, exclude: tuple[Path, ...] = ()) -> list[str]:
    found = find_files(paths or (root,), exclude=exclude)
    return [file.relative_to(root).as_posix() for file in found.files]


def test_known_suffixes_are_taken_in_a_fixed_order(tmp_path: Path) -> None:
    wanted = ["a/y.MD", "a/z.html", "b.txt", "c.py", "d.pdf"]
    make(tmp_path, *reversed(wanted), "picture.png", "a/data.bin", "Makefile")
    found = find_files([tmp_path])
    assert names(tmp_path) == ["b.txt", "c.py", "d.pdf", "a/y.MD", "a/z.html"]
    assert found.left_out == {".png": 1, ".bin": 1, "no suffix": 1}
    assert found.failed == ()


def test_hidden_and_generated_folders_are_passed_over(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("ok.md", ".git/x.md", ".hidden.md", "node_modules/p/readme.md", "__pycache__/a.txt"),
        *(".venv/lib/x.py", "myenv/pyvenv.cfg", "myenv/lib/x.py", "store/notes.txt"),
    )
    assert names(tmp_path, exclude=(tmp_path / "store",)) == ["ok.md"]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    make(tmp_path, ".notes", "log.7")
    assert names(tmp_path, tmp_path / "log.7", tmp_path / ".notes") == ["log.7", ".notes"]


def test_a_file_found_twice_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "docs/a.md", "docs/b.md")
    monkeypatch.chdir(tmp_path)
    again = Path("docs/../docs/a.md")
    assert names(tmp_path, tmp_path / "docs/b.md", Path("docs"), again) == [
        "docs/b.md",
        "docs/a.md",
    ]


def test_a_missing_path_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_files([tmp_path / "nowhere"])


def test_links_make_no_loop(tmp_path: Path) -> None:
    make(tmp_path, "docs/a.md", "elsewhere.md")
    docs = tmp_path / "docs"
    (docs / "loop").symlink_to(docs)
    (docs / "link.md").symlink_to(tmp_path / "elsewhere.md")
    (docs / "self.md").symlink_to(docs / "self.md")
    (docs / "broken.md").symlink_to(docs / "gone.md")
    found = find_files([docs])
    assert [file.name for file in found.files] == ["a.md", "link.md"]
    assert [Path(failure.source).name for failure in found.failed] == ["broken.md", "self.md"]


def test_a_pipe_is_listed_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (failure,) = find_files([tmp_path]).failed
    assert failure.error == "not a regular file"


NOBODY = 65534


@contextmanager
def without_rights() -> Iterator[None]:
    """Be somebody for whom a closed folder is closed: root may read every one."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_folder_that_cannot_be_listed_is_reported() -> None:
    with TemporaryDirectory() as name:  # tmp_path lies in a folder of its owner alone
        folder = Path(name)
        make(folder, "open/a.md", "closed/b.md")
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        try:
            with without_rights():
                found = find_files([folder])
        finally:
            (folder / "closed").chmod(0o700)
    assert [file.name for file in found.files] == ["a.md"]
    assert [Path(failure.source).name for failure in found.failed] == ["closed"]
    assert found.failed[0].error == "Permission denied"
