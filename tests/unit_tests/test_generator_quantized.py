"""A quantized model whose library is missing is refused before its weights are fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from langchain_gpu.generators.registry import Options, choose
from langchain_gpu.models.resolve import ModelNotFoundError

_COMMIT = "c" * 40
_NAMES = ("config.json", "model.safetensors", "tokenizer.json")


class Hub:
    """A hub with one model.

    Attributes:
        config: Its `config.json`.
        fetched: The names of the files that were asked for.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.fetched: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/api/models/org/packed"):
            if "/tree/" in request.url.path:
                files = [
                    {"type": "file", "path": name, "size": 2, "oid": "1" * 40} for name in _NAMES
                ]
                return httpx.Response(200, json=files, request=request)
            siblings = [{"rfilename": name} for name in _NAMES]
            body = {"id": "org/packed", "sha": _COMMIT, "siblings": siblings, "private": False}
            return httpx.Response(200, json=body, request=request)
        name = request.url.path.rpartition("/")[2]
        if name not in _NAMES:
            return httpx.Response(404, headers={"x-error-code": "RepoNotFound"}, request=request)
        data = json.dumps(self.config).encode() if name == "config.json" else b"{}"
        headers = {"etag": f'"{name}"', "x-repo-commit": _COMMIT}
        if request.method == "HEAD":
            headers["content-length"] = str(len(data))
            return httpx.Response(200, headers=headers, request=request)
        self.fetched.append(name)
        return httpx.Response(200, headers=headers, content=data, request=request)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    found = Hub({"quantization_config": {"quant_method": "gptq"}})
    before = _http._GLOBAL_CLIENT_FACTORY
    huggingface_hub.set_client_factory(
        lambda: httpx.Client(transport=httpx.MockTransport(found.answer))
    )
    yield found
    huggingface_hub.set_client_factory(before)


@pytest.mark.parametrize("backend", ["auto", "transformers"])
@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("gptq", "gptqmodel"),
        ("awq", "gptqmodel"),
        ("bitsandbytes", "bitsandbytes"),
        ("torchao", "torchao"),
        ("compressed-tensors", "compressed-tensors"),
    ],
)
def test_only_the_configuration_is_fetched(
    hub: Hub, method: str, package: str, backend: str
) -> None:
    hub.config = {"quantization_config": {"quant_method": method}}
    with pytest.raises(ImportError, match=f"org/packed is quantized with {method}.*{package}"):
        choose("org/packed", backend)
    assert set(hub.fetched) == {"config.json"}


def test_one_that_is_not_quantized_is_fetched(hub: Hub) -> None:
    hub.config = {"model_type": "llama"}
    assert choose("org/packed", "transformers").path.name == _COMMIT
    assert sorted(hub.fetched) == sorted(_NAMES)


def test_a_name_that_is_not_there_is_still_not_found(hub: Hub) -> None:
    with pytest.raises(ModelNotFoundError, match="org/none"):
        choose("org/none", "transformers", Options())
