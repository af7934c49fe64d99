"""Every back end through the class that users hold, with the arguments they give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu import GPUEmbeddings, GPURerank
from tests.unit_tests.gguf_bert import write_gguf
from tests.unit_tests.scripted_server import Script, ollama, openai, serving, vectors_of

Tiny = Callable[[str], str]
TEXTS = ["the gpu is fast", "one", "memory of the model and the batch"]


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_every_back_end_gives_the_vectors_of_the_default(tiny: Tiny, backend: Any) -> None:
    model = GPUEmbeddings(
        model=tiny("bert"),
        backend=backend,
        model_kwargs={"device": "cpu", "model_kwargs": {"dtype": "float32"}},
        encode_kwargs={"prompt": ""},
    )
    rows = model.embed_to_array(TEXTS)
    assert model.computed_in == "float32"
    assert model.backend_reason == f"{backend}: asked for"
    default = GPUEmbeddings(model=tiny("bert"), dtype="float32", encode_kwargs={"prompt": ""})
    assert np.allclose(rows, default.embed_to_array(TEXTS), atol=1e-4)


def test_a_gguf_file_needs_no_backend(tiny: Tiny, tmp_path: Path) -> None:
    file = write_gguf(Path(tiny("bert")), tmp_path / "tiny.gguf")
    plain: dict[str, Any] = {"encode_kwargs": {"prompt": ""}}
    model = GPUEmbeddings(model=str(file), model_kwargs={"n_threads": 1}, **plain)
    rows = model.embed_to_array(TEXTS)
    assert model.backend_reason.startswith("llama_cpp: ")
    wanted = GPUEmbeddings(model=tiny("bert"), dtype="float32", **plain).embed_to_array(TEXTS)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert (rows * wanted).sum(axis=1).min() > 0.999


@pytest.mark.parametrize(("backend", "script"), [("openai", openai), ("ollama", ollama)])
def test_a_server_gets_what_it_knows(
    monkeypatch: pytest.MonkeyPatch, backend: Any, script: Script
) -> None:
    with serving(monkeypatch, script) as server:
        model = GPUEmbeddings(
            model="m", backend=backend, base_url="http://far.example", model_kwargs={"user": "me"}
        )
        rows = model.embed_to_array(TEXTS)
        bodies = [asked.body for asked in server.asked if asked.body and "input" in asked.body]
        model.close()
    assert np.allclose(rows, vectors_of(TEXTS), atol=1e-6)
    known = {"model", "input", "user", "encoding_format", "truncate"}
    assert bodies
    assert all(set(body) <= known and body["user"] == "me" for body in bodies)


def test_a_rerankers_device_may_stand_where_sentence_transformers_has_it(
    tiny_reranker: Callable[[str], str],
) -> None:
    kwargs = {"device": "cpu", "model_kwargs": {"torch_dtype": "float32"}}
    pairs = [("one gpu", text) for text in TEXTS]
    named = GPURerank(model=tiny_reranker("bert"), backend="torch", model_kwargs=kwargs)
    plain = GPURerank(model=tiny_reranker("bert"), backend="torch", dtype="float32")
    assert np.allclose(named.score(pairs), plain.score(pairs), atol=1e-6)
    wrong = GPURerank(model=tiny_reranker("bert"), device="mps", model_kwargs={"device": "cpu"})
    with pytest.raises(ValueError, match="disagree"):
        wrong.score(pairs)
