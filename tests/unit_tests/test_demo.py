"""The demo's corpus, and one small demo with the real models."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from langchain_gpu.cli import main
from langchain_gpu.demo import command
from langchain_gpu.demo.corpus import Corpus, collect, docstrings, readme

SOURCE = '''"""A module."""

def public(x, *rest: int, key=1) -> str:
    """A function."""
    def inner():
        """Not reachable by a name."""

class Shape:
    """A class."""
    async def area(self):
        """A method."""
    def _hidden(self):
        """Private."""

if True:
    def guarded():
        """Behind a condition."""
'''


def test_docstrings_have_name_signature_file_and_line(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\nraise SystemExit\n')
    (package / "module.py").write_text(SOURCE)
    (package / "old.py").write_text("print 'Python 2'\n")
    corpus = Corpus()
    found = list(docstrings(sorted(package.glob("*.py")), tmp_path, corpus))
    assert [(d.metadata["source"], d.metadata["file"], d.metadata["line"]) for d in found] == [
        ("pack", "pack/__init__.py", 1),
        ("pack.module", "pack/module.py", 1),
        ("pack.module.public", "pack/module.py", 3),
        ("pack.module.Shape", "pack/module.py", 8),
        ("pack.module.Shape.area", "pack/module.py", 10),
        ("pack.module.guarded", "pack/module.py", 16),
    ]
    assert found[2].page_content == "pack.module.public(x, *rest: int, key=1)\n\nA function."
    assert (corpus.files, corpus.skipped) == (2, 1)
    assert "pack" not in sys.modules, "sources are never imported"


def test_a_readme_is_a_document(tmp_path: Path) -> None:
    folder = tmp_path / "thing-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n\n# Thing\n"
    )
    document = readme(PathDistribution(folder))
    assert document is not None
    assert document.page_content == "thing\n\n# Thing"
    assert document.metadata == {"source": "README of thing 1.0"}
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    assert readme(PathDistribution(folder)) is None


def test_the_same_documents_each_time() -> None:
    first, second = collect(500), collect(500)
    assert first == second
    assert len({d.page_content for d in first.documents}) == len(first.documents) == 500


@pytest.mark.models
def test_there_are_ten_thousand_documents_here() -> None:
    """With what `make install` brings; the packages' part begins behind the standard library's."""
    documents = collect(10_000).documents
    assert len(documents) == 10_000
    sources = [d.metadata["source"] for d in documents]
    assert "timeit" in sources
    assert any(source.startswith("README of beautifulsoup4") for source in sources)
    assert any(source.startswith("langchain_core.") for source in sources)


@pytest.fixture
def output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(command, "ANSWER_TOKENS", 8)
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--limit", "40", "--question", "What is calendar?"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.models
def test_the_demo_ends_with_what_it_took(output: str, tmp_path: Path) -> None:
    assert (tmp_path / ".demo" / "manifest.json").is_file()
    assert "1. What is calendar?" in output
    for row in ("Documents", "Embedding model", "runs on", "speed", "Embed ", "Question 1", "All"):
        assert row in output
    assert "padding" in output
    assert "tokens/s" in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.models
@pytest.mark.parametrize(("module", "extra"), [("faiss", "faiss"), ("xllamacpp", "llama-cpp")])
def test_what_is_missing_is_said_before_anything_is_embedded(
    module: str, extra: str, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = ['demo', '--limit', '2']\n"
        "from langchain_gpu.cli import main; main()"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f'pip install "langchain-gpu[{extra}]"' in " ".join(done.stderr.split())
    assert "Embed ..." not in done.stderr
