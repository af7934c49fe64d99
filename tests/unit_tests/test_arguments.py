"""Arguments that other classes have: the error says what ours are called."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from langchain_gpu import GPULLM, ChatGPU, GPUEmbeddings, GPURerank
from langchain_gpu.language_models import settings


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
        (GPURerank, "openai_api_key", "x", r"say api_key=\.\.\."),
        (GPURerank, "top_k", 3, r"GPURerank does not know the argument 'top_k': say top_n=\.\.\."),
    ],
)
def test_the_error_says_what_it_is_called_here(
    kind: Any, name: str, value: Any, instead: str
) -> None:
    with pytest.raises(ValidationError, match=instead):
        kind(model="m", **{name: value})


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
    ("kind", "elsewhere"),
    [(ChatGPU, settings._ELSEWHERE), (GPULLM, settings._ELSEWHERE)]
    + [(kind, kind._elsewhere) for kind in (GPUEmbeddings, GPURerank)],
)
def test_what_is_said_instead_is_there(kind: Any, elsewhere: dict[str, str]) -> None:
    fields = kind.model_fields
    for name, instead in elsewhere.items():
        said = re.findall(r"(\w+)=", instead)
        assert name not in fields
        assert set(said) <= fields.keys(), name
        assert said or instead == "with_structured_output(...)", name
