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
        (GPUEmbeddings, "batch_size", 64, r"say max_batch_tokens=\.\.\., or nothing"),
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
