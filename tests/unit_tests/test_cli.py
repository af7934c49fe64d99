"""The command line as people and programs use it, with small stand-ins for the models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

import langchain_gpu
from langchain_gpu.cli import main, models
from langchain_gpu.cli.models import Place
from langchain_gpu.cli.output import Typewriter, show_error, shown_path
from langchain_gpu.events import BatchDone, GPUWarning, Listener
from langchain_gpu.hardware.devices import Device


class Embedding(DeterministicFakeEmbedding):
    """What the command asks of `GPUEmbeddings`, with vectors of nothing."""

    model: str
    size: int = 8
    window: int = 66
    place: Any = None
    on_event: Any = None

    @property
    def devices(self) -> list[Device]:
        return [Device(kind="cpu", name="test", reason="no GPU was found")]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [2 + len(text.split()) for text in texts]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if any("interrupt me" in text for text in texts):
            raise KeyboardInterrupt
        if any("break me" in text for text in texts):
            raise ValueError("the model returned NaN\nfor text 0")
        if self.on_event is not None:
            self.on_event(
                BatchDone(device="cpu", items=len(texts), tokens=1, padded_tokens=1, seconds=1.0)
            )
        return super().embed_documents(texts)

    def close(self) -> None:
        """Nothing is held."""


class Chat(FakeListChatModel):
    """Says the same to everything."""

    responses: list[str] = ["It is forty-two, as the guide says."]  # noqa: RUF012 - pydantic copies

    def close(self) -> None:
        """Nothing is held."""


Made = list[tuple[str, Place]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Made:
    """Replace the models; tell which were made."""
    made: Made = []

    def make_embeddings(model: str, place: Place, *, on_event: Listener | None = None) -> Embedding:
        made.append((model, place))
        return Embedding(model=model, on_event=on_event)

    def make_chat(
        model: str, place: Place, *, max_tokens: int, backend: str, base_url: str | None
    ) -> Chat:
        assert (max_tokens, backend, base_url) == (512, "auto", None)
        made.append((model, place))
        return Chat()

    monkeypatch.setattr(models, "make_embeddings", make_embeddings)
    monkeypatch.setattr(models, "make_chat", make_chat)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text("# Guide\n\nThe answer is forty-two.")
    return made


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    code = caught.value.code
    return code if isinstance(code, int) else int(code is not None)


def test_index_then_ask(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("index", "docs", "--store", "store") == 0
    out, err = capsys.readouterr()
    assert out.startswith("1 added, 0 updated, 0 deleted, 0 unchanged")
    assert "1/1" in err
    assert "documents/s" in err
    assert "1 chunk embedded on cpu: no GPU was found" in err
    assert call("ask", "What is the answer?", "--store", "store") == 0
    out, err = capsys.readouterr()
    assert out.startswith("It is forty-two, as the guide says.\n\nSources\n")
    assert "docs/guide.md" in out
    assert "The answer is forty-two." in out
    assert err == ""
    assert [model for model, _ in made] == [
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ]


def test_a_result_is_one_line_however_narrow(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert call("index", "docs", "--store", "store") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("1 added, 0 updated, 0 deleted, 0 unchanged (")
    assert made


def test_json_has_stdout_for_itself(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs" / "bad.txt").write_bytes(b"\x00")
    assert call("index", "docs", "--store", "store", "--json") == 0
    source = str(tmp_path / "docs" / "bad.txt")
    assert json.loads(capsys.readouterr().out) == {
        "added": 1,
        "updated": 0,
        "deleted": 0,
        "unchanged": 0,
        "empty": 0,
        "failed": [
            {"source": source, "error": "binary, not text (or UTF-16 without a byte-order mark)"}
        ],
    }
    assert call("ask", "What?", "--store", "store", "--json", "-k", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == "It is forty-two, as the guide says."
    (source_,) = found["sources"]
    assert source_["source"] == str(tmp_path / "docs" / "guide.md")
    assert isinstance(source_["score"], float)
    assert source_["text"] == "# Guide\n\nThe answer is forty-two."
    assert made


def test_options_reach_the_models(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--device", "cpu", "--fallback", "error", "--store", "store"]
    assert call("index", "docs", "--embedding-model", "mine", *place) == 0
    assert call("ask", "What?", "--chat-model", "chat", *place) == 0
    asked = Place("cpu", "error")
    assert made == [("mine", asked), ("mine", asked), ("chat", asked)]
    capsys.readouterr()


@pytest.mark.parametrize(
    "command",
    [
        ["index", "docs", "--store", "store"],
        ["ask", "What?", "--store", "store"],
        ["import-faiss", "old", "--store", "store"],
        ["demo"],
    ],
)
@pytest.mark.parametrize("device", ["banana", "cuda:", "cuda:x", "CPU", ""])
def test_what_names_no_device_is_refused_before_anything_is_done(
    made: Made, command: list[str], device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*command, "--device", device) == 2
    err = capsys.readouterr().err
    assert f"'--device': {device!r} is not a device: write auto, cpu, cuda" in " ".join(err.split())
    assert made == []


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "rocm:1", "xpu", "mps", "all"])
def test_what_names_a_device_reaches_the_models(
    made: Made, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("index", "docs", "--store", "store", "--device", device) == 0
    assert [place.device for _, place in made] == [device]
    capsys.readouterr()


def test_a_reranker_has_the_second_look(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class Shortest(BaseDocumentCompressor):
        top_n: int

        def compress_documents(
            self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
        ) -> list[Document]:
            asked.append((query, len(documents)))
            best = sorted(documents, key=lambda each: len(each.page_content))[: self.top_n]
            return [
                each.model_copy(update={"metadata": {**each.metadata, "relevance_score": 7.25}})
                for each in best
            ]

        def close(self) -> None:
            asked.append("closed")

    def make_reranker(model: str, place: Place, *, top_n: int) -> Shortest:
        asked.append((model, place))
        return Shortest(top_n=top_n)

    monkeypatch.setattr(models, "make_reranker", make_reranker)
    for number in range(12):
        Path("docs", f"{number:02}.md").write_text("words " * (number + 1))
    call("index", "docs", "--store", "store")
    capsys.readouterr()
    place = ["--device", "cpu", "--store", "store"]
    assert call("ask", "What?", "--rerank", "judge", "-k", "2", "--json", *place) == 0
    found = json.loads(capsys.readouterr().out)["sources"]
    assert [Path(each["source"]).name for each in found] == ["00.md", "01.md"]
    assert [each["relevance_score"] for each in found] == [7.25, 7.25]
    assert all(isinstance(each["score"], float) for each in found)
    assert asked == [("judge", Place("cpu")), ("What?", 13), "closed"]
    assert call("ask", "What?", "--rerank", "judge", "-k", "2", *place) == 0
    assert " 7.25  docs/00.md" in capsys.readouterr().out


def test_a_store_keeps_to_its_model(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    call("index", "docs", "--store", "store", "--embedding-model", "one")
    made.clear()
    assert call("index", "docs", "--store", "store") == 0
    assert made[0][0] == "one"
    capsys.readouterr()


def test_files_that_fail_are_listed_at_the_end(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs" / "bad.txt").write_bytes(b"\x00")
    (tmp_path / "docs" / "cut.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "docs" / "old.txt").write_bytes("na\xefve".encode("latin-1"))
    (tmp_path / "docs" / "empty.md").touch()
    (tmp_path / "docs" / "picture.png").touch()
    assert call("index", "docs", "--store", "store") == 0
    err = capsys.readouterr().err
    assert "2 could not be read:\n  docs/bad.txt: binary" in err
    assert "\n  docs/cut.pdf: " in err
    assert "1 file not in UTF-8, read as cp1252:\n  docs/old.txt" in err
    assert "1 file without text passed over" in err
    assert "1 file of other types passed over: 1 .png" in err
    assert made


def test_if_all_fail_it_fails(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "docs" / "bad.txt"
    bad.write_bytes(b"\x00")
    assert call("index", bad, "--store", "store", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["failed"]) == 1
    assert not (tmp_path / "store").exists()
    assert made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "nowhere", "--store", "s"], "No such file or folder: 'nowhere'"),
        (["index", "empty", "--store", "s"], "nothing to index in empty"),
        (["index", "docs", "--store", "docs"], "--store docs holds guide.md and no store"),
        (["index", "docs", "--store", "docs/guide.md"], "is a file; name a folder"),
        (["index", "docs", "--store", "s", "--chunk-tokens", "99"], "at most 64"),
        (["index", "docs", "--store", "s", "--overlap", "64"], "below the chunk size 64"),
        (["ask", "What?", "--store", "empty"], "empty holds no store"),
        (["ask", "What?", "--store", "nowhere"], "nowhere holds no store"),
    ],
)
def test_what_goes_wrong_is_one_line(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    assert call(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "s").exists()
    assert len(made) <= 1


class Cut(Chat):
    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        end = AIMessageChunk(" is forty", response_metadata={"finish_reason": "length"})
        for message in (AIMessageChunk("It"), end):
            yield ChatGenerationChunk(message=message)


def test_an_answer_that_was_cut_is_said_to_be(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models, "make_chat", lambda *_, **__: Cut())
    call("index", "docs", "--store", "store")
    capsys.readouterr()
    assert call("ask", "What?", "--store", "store", "--max-tokens", "9") == 0
    out, err = capsys.readouterr()
    assert out.startswith("It is forty\n")
    assert err == "The answer was cut; --max-tokens is 9.\n"
    assert call("ask", "What?", "--store", "store", "--json") == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "length"
    assert made


def test_a_server_can_run_the_chat_model(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def make_chat(model: str, place: Place, **options: Any) -> Chat:
        asked.append((model, place, options))
        return Chat()

    monkeypatch.setattr(models, "make_chat", make_chat)
    call("index", "docs", "--store", "store")
    url = "http://localhost:11434"
    words = ["--chat-model", "qwen3:8b", "--backend", "ollama", "--base-url", url]
    assert call("ask", "What?", "--store", "store", "--max-tokens", "9", *words) == 0
    options = {"max_tokens": 9, "backend": "ollama", "base_url": url}
    assert asked == [("qwen3:8b", Place(), options)]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("backend", "base_url"), [("auto", "http://localhost:8000"), ("ollama", None)]
)
def test_a_server_is_told_no_device_of_this_machine(backend: str, base_url: str | None) -> None:
    place = Place("cuda:1", "error")
    chat = models.make_chat("qwen", place, backend=backend, base_url=base_url)
    assert (chat.model, chat.backend, chat.base_url) == ("qwen", backend, base_url)
    assert chat.device == "auto"
    assert chat.model_kwargs == {}, "an engine's own names mean nothing to a server"


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "docs"],
        ["index", "--store", "s"],
        ["index", "docs", "--store", "s", "--fallback", "maybe"],
        ["index", "docs", "--store", "s", "--chunk-tokens", "0"],
        ["ask", "--store", "s"],
        ["ask", "What?", "--store", "s", "-k", "0"],
        ["ask", "What?", "--store", "s", "--max-tokens", "0"],
        ["ask", "What?", "--store", "s", "--backend", "torch"],
        ["what"],
        ["--what"],
    ],
)
def test_wrong_usage_exits_with_2(
    made: Made, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert call(*arguments) == 2
    assert "Error: " in capsys.readouterr().err
    assert made == []


def test_an_empty_folder_loses_nothing(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("index", "docs", "--store", "store")
    (tmp_path / "docs" / "guide.md").unlink()
    assert call("index", "docs", "--store", "store") == 1
    assert "the store keeps 1 document from there" in capsys.readouterr().err
    assert call("ask", "What?", "--store", "store") == 0
    assert "forty-two" in capsys.readouterr().out
    assert made


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("interrupt me", (130, "Interrupted. What was saved stays; run it again to go on.\n")),
        ("break me", (1, "Error: the model returned NaN\nfor text 0\n")),
    ],
)
def test_what_is_stored_outlives_a_failure(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, end: tuple[int, str]
) -> None:
    call("index", "docs", "--store", "store")
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    (tmp_path / "docs" / "next.md").write_text(text)
    capsys.readouterr()
    code = call("index", "docs", "--store", "store")
    said = capsys.readouterr().err
    assert (code, said[-len(end[1]) :]) == end
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before
    assert made


def test_a_store_that_cannot_be_written_is_said_before_anything_is_embedded(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs" / "next.md").write_text("interrupt me")
    (tmp_path / "file").touch()
    assert call("index", "docs", "--store", "file/store") == 1
    assert "Error: --store file/store cannot be written: " in capsys.readouterr().err
    assert made


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_for_reading_only_is_written_to_only_if_something_changed(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("index", "docs", "--store", "store")
    (tmp_path / "store").chmod(0o500)
    try:
        assert call("index", "docs", "--store", "store") == 0
        (tmp_path / "docs" / "next.md").write_text("interrupt me")
        assert call("index", "docs", "--store", "store") == 1
    finally:
        (tmp_path / "store").chmod(0o700)
    assert "Error: --store store cannot be written: " in capsys.readouterr().err
    assert made


@pytest.mark.parametrize("there", [False, True], ids=["a new store", "a store"])
def test_what_another_process_saved_meanwhile_stays(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    there: bool,  # noqa: FBT001
) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "other.md").write_text("Another one was faster.")
    if there:
        call("index", "docs", "--store", "store")
        (tmp_path / "docs" / "next.md").write_text("Something new.")
    embed = Embedding.embed_documents

    def embed_slowly(self: Embedding, texts: list[str]) -> list[list[float]]:
        monkeypatch.setattr(Embedding, "embed_documents", embed)
        assert call("index", "others", "--store", "store") == 0
        return embed(self, texts)

    monkeypatch.setattr(Embedding, "embed_documents", embed_slowly)
    assert call("index", "docs", "--store", "store") == 1
    said = capsys.readouterr().err
    assert "another process has saved to store meanwhile; run it again to add to that" in said
    assert call("index", "docs", "--store", "store") == 0
    call("index", "docs", "others", "--store", "store", "--json")
    found = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert found["unchanged"] == (3 if there else 2)
    assert made


def test_the_store_may_lie_among_the_documents(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "docs" / "store"
    call("index", "docs", "--store", store)
    capsys.readouterr()
    assert call("index", "docs", "--store", store, "--json") == 0
    assert json.loads(capsys.readouterr().out)["added"] == 0
    assert made


def test_debug_shows_the_traceback(made: Made) -> None:
    with pytest.raises(FileNotFoundError):
        main(["index", "nowhere", "--store", "s", "--debug"])
    assert made == []


def test_our_warnings_are_one_line(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(model: str, place: Place, *, on_event: Listener | None = None) -> Embedding:
        warnings.warn("embedding runs on cpu, not cuda: none here", GPUWarning, stacklevel=1)
        warnings.warn("someone else's", UserWarning, stacklevel=1)
        made.append((model, place))
        return Embedding(model=model, on_event=on_event)

    monkeypatch.setattr(models, "make_embeddings", make)
    assert call("index", "docs", "--store", "store") == 0
    err = capsys.readouterr().err
    assert "Warning: embedding runs on cpu, not cuda: none here\n" in err
    assert "someone else's" not in err


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--json", "--no-proof", "--no-ollama") in {0, 1}  # as this machine is
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert devices
    assert all({"kind", "name", "reason", "cores"} <= device.keys() for device in devices)
    assert call("doctor", "--no-proof", "--no-ollama") in {0, 1}
    assert "cpu" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"langchain-gpu {langchain_gpu.__version__}\n"


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_extra_is_one_line(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from langchain_gpu.cli import main; main()"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"langchain-gpu: `{module}` is not installed. "
        'Install it with: pip install "langchain-gpu[cli]"\n'
    )


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from langchain_gpu.cli.run import app\n"
        "heavy = {'torch', 'transformers', 'faiss', 'langchain_core'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_the_typewriter_breaks_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    writer = Typewriter(12)
    for piece in ["One tw", "o three four", " five.\n\n  - a", " list\nunbreakable-word"]:
        writer.write(piece)
    writer.close()
    out = capsys.readouterr().out
    assert out == "One two\nthree four\nfive.\n\n  - a list\nunbreakable-word\n"
    assert max(map(len, out.splitlines()[:5])) <= 12


def test_a_name_is_text_and_no_command_for_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_path(f"{Path.cwd()}/a\nb\x1b[2J é.md") == "a\\nb\\x1b[2J é.md"


def test_errors_without_words_have_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(KeyError("x"))
    show_error(RuntimeError())
    assert capsys.readouterr().err == "Error: KeyError: 'x'\nError: RuntimeError\n"


def test_the_notes_of_an_error_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("text 3 is too long")
    error.add_note("in the part of the texts that starts at document 4096")
    show_error(error)
    shown = "Error: text 3 is too long (in the part of the texts that starts at document 4096)\n"
    assert capsys.readouterr().err == shown
