"""Which engine takes which files, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from langchain_gpu.generators.registry import Options, check_name, choose, create, refuse
from langchain_gpu.models.resolve import ModelNotFoundError

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0")
    return path


@pytest.fixture
def safetensors(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_an_unknown_name_lists_the_known_ones() -> None:
    known = "'auto', 'llama_cpp', 'ollama', 'openai', 'transformers'"
    with pytest.raises(ValueError, match=f"'vllm'.*{known}"):
        check_name("vllm")


def test_a_gguf_file_or_its_folder_goes_to_llama_cpp(gguf: Path) -> None:
    for model in (gguf, gguf.parent):
        choice = choose(str(model))
        assert (choice.backend, choice.path) == ("llama_cpp", gguf)
        assert "GGUF" in choice.reason


def test_a_folder_goes_to_transformers(safetensors: Path) -> None:
    choice = choose(str(safetensors))
    assert (choice.backend, choice.path) == ("transformers", safetensors)
    assert "safetensors" in choice.reason


def test_a_named_back_end_is_taken_and_said(gguf: Path) -> None:
    choice = choose(str(gguf), "llama_cpp")
    assert choice.reason == "backend='llama_cpp' was asked for"


@pytest.mark.models
def test_a_name_is_looked_up_as_gguf_first() -> None:
    choice = choose(SMOLLM2)
    assert choice.backend == "llama_cpp"
    assert choice.files is not None
    assert choice.files.source == "package"


def test_an_unknown_model_says_everything_that_was_tried() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        choose("nobody/nothing")
    assert "no gguf files" in str(caught.value)
    assert "no safetensors files" in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "module", "line"),
    [
        ("llama_cpp", "xllamacpp", 'pip install "langchain-gpu[llama-cpp]"'),
        ("transformers", "transformers", 'pip install "langchain-gpu[local]"'),
    ],
)
def test_a_missing_engine_names_its_pip_line(
    backend: str, module: str, line: str, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    model = str(gguf if backend == "llama_cpp" else gguf.parent)
    (gguf.parent / "config.json").write_text("{}")
    with pytest.raises(ImportError) as caught:
        create(choose(model, backend), Options())
    assert line in str(caught.value)


def test_an_option_of_another_engine_is_refused() -> None:
    refuse(Options(), "x", "n_ctx", "dtype")
    with pytest.raises(ValueError, match="n_ctx=512 has no meaning for the back end 'x'"):
        refuse(Options(n_ctx=512), "x", "n_ctx")
