"""Arguments that other classes have: the error says what ours are called."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from langchain_gpu import GPULLM, ChatGPU, GPUEmbeddings, GPURerank
from langchain_gpu.language_models import elsewhere as language_models


@pytest.mark.parametrize(
    ("kind", "name", "value", "instead"),
    [
        (ChatGPU, "num_ctx", 8192, r"ChatGPU does not know the argument 'num_ctx': say n_ctx="),
        (ChatGPU, "num_predict", 64, r"max_tokens=\.\.\."),
        (ChatGPU, "max_completion_tokens", 64, r"max_tokens=\.\.\."),
        (ChatGPU, "top_k", 20, r"model_kwargs=\{'top_k': \.\.\.\}"),
        (ChatGPU, "temprature", 0.5, r"say temperature=\.\.\."),
        (
            GPULLM,
            "max_new_tokens",
            64,
            r"GPULLM does not know the argument 'max_new_tokens': say max_tokens=",
        ),
        (ChatGPU, "mirostat_tau", 5.0, r"say model_kwargs=\{'mirostat_tau': \.\.\.\}"),
        (ChatGPU, "tfs_z", 1.0, r"say model_kwargs=\{'tfs_z': \.\.\.\}"),
        (ChatGPU, "grammar_path", "a.gbnf", r"say model_kwargs=\{'grammar': its text\}"),
        (ChatGPU, "default_headers", {}, r"say load_kwargs=\{'default_headers': \.\.\.\}"),
        (ChatGPU, "format", "json", r"model_kwargs=\{'format': \.\.\.\}"),
        (GPULLM, "format", "json", r"say model_kwargs=\{'format': \.\.\.\}"),
        (GPUEmbeddings, "batch_size", 64, r"say max_batch_tokens=\.\.\., or nothing"),
        (GPUEmbeddings, "openai_api_base", "http://box", r"say base_url=\.\.\."),
        (GPUEmbeddings, "openai_api_key", "x", r"say api_key=\.\.\."),
        (GPUEmbeddings, "request_timeout", 5, r"say timeout=\.\.\., in seconds"),
        (GPUEmbeddings, "dimensions", 64, r"say truncate_dim=\.\.\."),
        (GPUEmbeddings, "chunk_size", 64, r"say encode_kwargs=\{'batch_size': \.\.\.\}"),
        (GPUEmbeddings, "n_ctx", 512, r"say model_kwargs=\{'n_ctx': \.\.\.\}"),
        (GPUEmbeddings, "num_ctx", 512, r"model_kwargs=\{'options': \{'num_ctx': \.\.\.\}\}"),
        (GPUEmbeddings, "keep_alive", "5m", r"say model_kwargs=\{'keep_alive': \.\.\.\}"),
        (GPUEmbeddings, "model_name_or_path", "m", r"say model=\.\.\."),
        (GPUEmbeddings, "check_embedding_ctx_length", False, r"leave it out: a server is sent"),
        (GPUEmbeddings, "normalize_embeddings", True, r"say encode_kwargs=\{'normalize_embedd"),
        (GPUEmbeddings, "query_instruction", "q: ", r"say query_encode_kwargs=\{'prompt': \.\.\."),
        (GPUEmbeddings, "prompts", {}, r"say model_kwargs=\{'prompts': \.\.\.\}"),
        (GPURerank, "normalize", True, r"say activation='sigmoid'"),
        (GPURerank, "use_fp16", True, r"say dtype='float16'"),
        (GPURerank, "openai_api_key", "x", r"say api_key=\.\.\."),
        (ChatGPU, "verbosity", "low", r"leave it out: only OpenAI's own models"),
        (ChatGPU, "use_gpu", True, r"say device='cuda', or nothing"),
        (GPUEmbeddings, "gpu_id", 0, r"say device='cuda', or nothing"),
        (GPUEmbeddings, "truncate", "END", r"say on_long=\.\.\."),
        (GPUEmbeddings, "normalize", True, r"say encode_kwargs=\{'normalize_embeddings': True\}"),
        (GPURerank, "truncation", True, r"say on_long=\.\.\."),
        (ChatGPU, "n", 3, r"say batch\(\[prompt\] \* n\)"),
        (ChatGPU, "trust_remote_code", True, r"load_kwargs=\{'trust_remote_code': True, 'rev"),
        (ChatGPU, "cache_folder", "f", r"'cache_folder': set HF_HUB_CACHE"),
        (ChatGPU, "validate_model_on_init", True, r"leave it out"),
        (ChatGPU, "stop_sequences", ["."], r"say stop=\.\.\."),
        (GPURerank, "top_k", 3, r"GPURerank does not know the argument 'top_k': say top_n=\.\.\."),
    ],
)
def test_the_error_says_what_it_is_called_here(
    kind: Any, name: str, value: Any, instead: str
) -> None:
    with pytest.raises(ValidationError, match=instead):
        kind(model="m", **{name: value})


@pytest.mark.parametrize(
    ("kind", "backend", "instead"),
    [
        (
            GPUEmbeddings,
            "vllm",
            r"GPUEmbeddings has no backend 'vllm': say backend='openai' and ba",
        ),
        (GPUEmbeddings, "OpenVINO", r"say backend='openvino'"),
        (GPUEmbeddings, "llama.cpp", r"say backend='llama_cpp'"),
        (GPUEmbeddings, "cuda", r"say device='cuda'"),
        (
            GPURerank,
            "openai",
            r"GPURerank has no backend 'openai': say base_url=\.\.\., the server",
        ),
        (GPURerank, "ollama", r"Ollama has no route for reranking"),
        (GPURerank, "transformers", r"say backend='torch'"),
        (ChatGPU, "vllm", r"ChatGPU has no backend 'vllm': say backend='openai' and base_url="),
        (ChatGPU, "torch", r"say backend='transformers'"),
        (GPULLM, "Ollama", r"say backend='ollama'"),
        (GPULLM, "llama.cpp", r"say backend='llama_cpp'"),
    ],
)
def test_the_error_says_which_back_end_is_meant(kind: Any, backend: str, instead: str) -> None:
    with pytest.raises(ValidationError, match=instead):
        kind(model="m", backend=backend)


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM, GPUEmbeddings, GPURerank])
def test_a_back_end_like_nothing_is_refused_with_those_there_are(kind: Any) -> None:
    with pytest.raises(ValidationError, match="llama_cpp.*triton"):
        kind(model="m", backend="zzzz")


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM, GPUEmbeddings, GPURerank])
def test_a_dtype_of_torch_is_taken_by_its_name(kind: Any) -> None:
    assert kind(model="m", dtype=torch.bfloat16).dtype == "bfloat16"
    with pytest.raises(ValidationError, match="'float32', 'bfloat16'"):
        kind(model="m", dtype=torch.float64)


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM, GPUEmbeddings, GPURerank])
def test_what_is_like_nothing_is_refused_too(kind: Any) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind(model="m", zzzz=1)


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM, GPUEmbeddings, GPURerank])
def test_both_names_of_the_model_are_known(kind: Any) -> None:
    assert kind(model_name="m").model == kind(model="m").model == "m"


def test_a_value_is_not_shown() -> None:
    with pytest.raises(ValidationError, match="api_key=") as caught:
        ChatGPU(model="m", openai_api_key="sk-secret")  # type: ignore[call-arg]
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "elsewhere", "backends"),
    [(kind, language_models.ARGUMENTS, language_models.BACKENDS) for kind in (ChatGPU, GPULLM)]
    + [(kind, kind._elsewhere, kind._backends) for kind in (GPUEmbeddings, GPURerank)],
)
def test_what_is_said_instead_is_there(
    kind: Any, elsewhere: dict[str, str], backends: dict[str, str]
) -> None:
    fields = kind.model_fields
    for name, instead in {**elsewhere, **backends}.items():
        assert name not in fields
        said = re.findall(r"(\w+)=", instead)
        assert set(said) <= fields.keys(), name
        assert said or instead.startswith(("leave it out", "set HF_HUB_CACHE", "batch(")), name
    for name, instead in backends.items():
        for backend in re.findall(r"backend='(\w+)'", instead):
            assert kind(model="m", backend=backend), name
