"""Which engine takes which files, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu import ChatGPU
from langchain_gpu.generators import registry
from langchain_gpu.generators.options import refuse
from langchain_gpu.generators.registry import Options, check_name, choose, create
from langchain_gpu.llama.errors import ModelLoadError
from langchain_gpu.models.resolve import ModelNotFoundError, Resolved

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
    known = "auto, llama_cpp, ollama, openai, transformers"
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


class Hub:
    """Stands for every place where files are; they are never on this machine.

    Attributes:
        fetched: What was asked of the hub, with the model's name.
    """

    def __init__(self) -> None:
        self.fetched: list[dict[str, Any]] = []

    def resolve(self, name: str, *, local_files_only: bool = False, **how: Any) -> Resolved:
        if not local_files_only:
            self.fetched.append({"name": name, **how})
        raise ModelNotFoundError(f"no files of {name}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    scripted = Hub()
    monkeypatch.setattr(registry, "resolve", scripted.resolve)
    return scripted


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"model": "org/a-GGUF", "load_kwargs": {"tokens": "hf_hidden"}},
            r"of the back end 'llama_cpp' are cache_dtype, revision, token, not \['tokens'\]",
        ),
        ({"model": "org/a-GGUF", "dtype": "float16"}, "dtype='float16' has no meaning"),
        ({"backend": "llama_cpp", "dtype": "float16"}, "dtype='float16' has no meaning"),
        ({"backend": "transformers", "n_threads": 2}, "n_threads=2 has no meaning"),
        ({"n_gpu_layers": 3}, "n_gpu_layers=3 has no meaning"),
        ({"load_kwargs": {"use_safetensors": "hf_hidden"}}, "load_kwargs of.*transformers"),
        ({"load_kwargs": {"trust_remote_code": True}}, "40-digit commit"),
    ],
)
def test_nothing_is_fetched_for_what_is_refused(
    hub: Hub, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        ChatGPU(**{"model": "org/a", **settings}).invoke("hello")
    assert hub.fetched == []
    assert "hidden" not in str(caught.value)


SCHEMA = {"title": "Person", "type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("module", "extra", "settings"),
    [
        ("xllamacpp", "llama-cpp", {"model": "org/a-GGUF"}),
        ("xllamacpp", "llama-cpp", {"backend": "llama_cpp"}),
        ("transformers", "local", {}),
        ("torch", "local", {"backend": "transformers"}),
        ("accelerate", "local-gguf", {"load_kwargs": {"device_map": "auto"}}),
        ("gguf", "local-gguf", {"model": "org/a-GGUF", "backend": "transformers"}),
    ],
)
def test_nothing_is_fetched_for_what_is_not_installed(
    hub: Hub,
    module: str,
    extra: str,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"`{module}` is not.*langchain-gpu\[{extra}\]"):
        ChatGPU(**{"model": "org/a", **settings}).invoke("hello")
    assert hub.fetched == []


def test_without_transformers_it_is_said_that_no_gguf_was_found(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"no files of org/a\n(?s:.)*langchain-gpu\[local\]"):
        choose("org/a")


async def test_nothing_is_fetched_for_a_format_that_cannot_be_enforced(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    chat = ChatGPU(model="org/a")
    structured = chat.with_structured_output(SCHEMA)
    with pytest.raises(ImportError, match=r"langchain-gpu\[grammar\]"):
        structured.invoke("hello")
    with pytest.raises(ImportError, match=r"langchain-gpu\[grammar\]"):
        await structured.ainvoke("hello")
    assert hub.fetched == []
    with pytest.raises(ModelNotFoundError):
        chat.invoke("hello")
    with pytest.raises(ModelNotFoundError):  # llama.cpp has grammars of its own
        ChatGPU(model="org/a-GGUF").with_structured_output(SCHEMA).invoke("hello")


@pytest.mark.parametrize("backend", ["auto", "llama_cpp", "transformers"])
@pytest.mark.parametrize("model", ["org/a", "org/a-GGUF"])
def test_where_the_files_are_is_said_to_the_hub(hub: Hub, backend: str, model: str) -> None:
    where = {"revision": "v1.0", "token": "hf_hidden"}
    with pytest.raises(ModelNotFoundError) as caught:
        ChatGPU(model=model, backend=backend, load_kwargs=where).invoke("hello")
    (asked,) = hub.fetched
    assert {name: asked[name] for name in where} == where
    assert "hidden" not in str(caught.value)


def test_where_the_files_were_is_no_matter_to_engines(gguf: Path) -> None:
    chat = ChatGPU(model=str(gguf), load_kwargs={"revision": "v1.0", "token": "hf_hidden"})
    with pytest.raises(ModelLoadError, match=gguf.name) as caught:
        chat.invoke("hello")
    assert "hidden" not in str(caught.value)
