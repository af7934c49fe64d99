"""What the documents promise is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit_tests.conftest import MINILM
from tests.unit_tests.tiny_gguf import decoder, gguf

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
]
CLI = "from langchain_gpu.cli import main; main()"
GUIDES = [
    f"docs/{name}.md" for name in ("planning", "embeddings", "store", "reranking", "rag", "chat")
]
"""Pages whose blocks follow README's, in this order."""
ALONE = [f"docs/{name}.md" for name in ("community", "migrating", "triton", "troubleshooting")]
"""Pages whose blocks follow no other page's."""


def blocks(page: str, wanted: str) -> list[str]:
    """The blocks of a page in one language: `python` is run, `py` runs with what it names."""
    found = FENCE.findall((ROOT / page).read_text())
    return [code for language, code in found if language == wanted]


def run(code: str, page: str, session: dict[str, Any]) -> None:
    exec(compile(code, page, "exec"), session)  # noqa: S102 - our own pages


PYTHON = [code for page in ("README.md", *GUIDES) for code in blocks(page, "python")]
COMMANDS = [
    command
    for page in PAGES
    for code in blocks(page, "sh")
    for line in code.splitlines()
    for command in line.split(" && ")
]


@pytest.mark.models
def test_every_python_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one session, top to bottom, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {}
    for code in PYTHON:
        run(code, "a guide", session)
    printed = capsys.readouterr().out
    assert "nine" in printed, "the first answer"
    assert "(3, 384)" in printed
    assert "closes at five" in printed
    session["chat"].close()


@pytest.mark.models
@pytest.mark.parametrize("page", ["docs/planning.md", "docs/embeddings.md", "docs/store.md"])
def test_a_guide_can_be_pasted_without_readme_before_it(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {}
    for code in blocks(page, "python"):
        run(code, page, session)
    session["embeddings"].close()


def test_no_page_with_python_is_left_out() -> None:
    assert {page for page in PAGES if blocks(page, "python")} == {"README.md", *GUIDES, *ALONE}


@pytest.mark.models
@pytest.mark.parametrize("page", ALONE)
def test_every_python_block_of_a_page_that_stands_alone_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what its reader has by then: an embedder, a chat model, a store of community's."""
    from langchain_community.vectorstores import FAISS

    from langchain_gpu import ChatGPU, GPUEmbeddings

    monkeypatch.chdir(tmp_path)
    chat = ChatGPU(model="HuggingFaceTB/SmolLM2-135M-Instruct", n_ctx=256, n_parallel=1)
    with GPUEmbeddings(model=MINILM) as embeddings, chat:
        session: dict[str, Any] = {"embeddings": embeddings, "chat": chat}
        if "old_store" in (ROOT / page).read_text():
            store = FAISS.from_texts(["The desk opens at nine."], embeddings)
            store.save_local("old_folder")
            session |= {"embedding": embeddings, "old_store": store}
        for code in blocks(page, "python"):
            run(code, page, session)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "py")])
def test_what_a_page_shows_of_other_models_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is loaded: constructing does not, and a plan reads headers."""
    from langchain_gpu import ChatGPU, GPUEmbeddings

    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama.gguf").write_bytes(gguf(*decoder()))
    (tmp_path / "cat.png").write_bytes(b"pixels")
    session = {"ChatGPU": ChatGPU, "GPUEmbeddings": GPUEmbeddings, "key": "k"}
    for code in blocks(page, "py"):
        run(code, page, session)


def test_the_first_block_is_short() -> None:
    lines = [line for line in PYTHON[0].splitlines() if line.strip()]
    assert len(lines) <= 12


def test_readme_can_be_read_in_ten_minutes() -> None:
    assert len(README.splitlines()) <= 350, "move reference to docs/"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_the_first_commands_are_the_two() -> None:
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        done = subprocess.run(  # noqa: S603
            ["make", "--dry-run", *words[1:]],  # noqa: S607
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    elif words[0] == "langchain-gpu":
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", CLI, words[1], "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for option in (word for word in words if word.startswith("--")):
            assert option in done.stdout
    else:
        assert words[0] == "pip", f"no test knows how to check {line!r}"
        from importlib.metadata import metadata

        extras = set(metadata("langchain-gpu").get_all("Provides-Extra") or [])
        assert set(re.findall(r"[\w-]+", words[2].partition("[")[2])) <= extras


def test_figures_come_from_a_result_file() -> None:
    """The tables under "Speed" are what benchmarks/results says, to the digit."""
    from benchmarks.tables import readme_speed

    section = readme_speed(ROOT / "benchmarks" / "results")
    assert "| GPUEmbeddings |" in section, "there are no results"
    assert section in README


def test_figures_in_the_text_are_some_of_them() -> None:
    from benchmarks.tables import claim, padding

    results = ROOT / "benchmarks" / "results"
    assert f"`HuggingFaceEmbeddings`:\n  {claim(results)}: [speed]" in README
    assert f"padding added {padding(results)}, which" in README


def test_every_setting_stands_in_its_page() -> None:
    """docs/settings.md is what the source says, and leaves out no field."""
    from runpy import run_path

    from langchain_gpu import ChatGPU, GPUEmbeddings, GPURerank

    text = (ROOT / "docs" / "settings.md").read_text()
    assert text == run_path(str(ROOT / "docs" / "make_settings.py"))["page"]()
    inherited = {
        name
        for base in ChatGPU.__mro__[1:]
        for name in vars(base).get("__annotations__", {})
        if base.__module__.startswith("langchain_core")
    }
    for face in (GPUEmbeddings, GPURerank, ChatGPU):
        section = text.partition(f"## `{face.__name__}`")[2].partition("\n## ")[0]
        assert [
            name
            for name in face.model_fields
            if f"| `{name}` |" not in section and name not in inherited | {"loaded"}
        ] == []


def test_all_figures_stand_in_the_page_on_speed() -> None:
    from benchmarks.tables import speed_page

    page = speed_page(ROOT / "benchmarks" / "results")
    for title in ("Embedding", "Reranking", "Search", "Writing text"):
        assert f"## {title}\n" in page
    assert (ROOT / "docs" / "speed.md").read_text().endswith(f"-->\n\n{page}")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", file.read_text()):
        if target.startswith("https://"):
            continue
        there = file.parent / target if target else file
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert heading in anchors, f"{target}#{heading}"


@pytest.mark.models
@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("01_quickstart", ["nine"]),
        (
            "02_what_fits_where",
            [
                "8.03 billion weights",
                "mirrored on cuda:1",
                "leaves room for all: Q8_0",
                "context: 1024 of 1024 planned",
                "chat      together: 1.00",
                "embedder  together: 1.00",
            ],
        ),
    ],
)
def test_a_notebook_runs_and_is_stripped(name: str, words: list[str], tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    path = ROOT / "notebooks" / f"{name}.ipynb"
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    # One print may reach the notebook as two outputs, where the kernel flushes in between.
    client = NotebookClient(
        notebook, timeout=240, startup_timeout=120, resources=place, coalesce_streams=True
    )
    client.execute()
    text = json.dumps(notebook.cells)
    for word in words:
        assert word in text
