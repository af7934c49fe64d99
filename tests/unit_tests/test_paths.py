"""Paths may be given as `pathlib.Path`, wherever the name of a file or a folder is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from langchain_gpu import GPULLM, ChatGPU, GPUEmbeddings, GPURerank

CLASSES = [GPUEmbeddings, GPURerank, ChatGPU, GPULLM]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", ["model", "model_name"])
def test_a_model_is_named_by_a_path(kind: Any, name: str, tmp_path: Path) -> None:
    found = kind(**{name: tmp_path / "model"})
    assert found.model == str(tmp_path / "model")


@pytest.mark.parametrize("kind", [GPUEmbeddings, GPURerank])
def test_the_cache_is_named_by_a_path(kind: Any, tmp_path: Path) -> None:
    assert kind(model="x", cache_folder=tmp_path).cache_folder == str(tmp_path)


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_neither_text_nor_a_path_is_refused(kind: Any) -> None:
    with pytest.raises(ValidationError, match="valid string"):
        kind(model=3)


@pytest.mark.parametrize("kind", [GPUEmbeddings, GPURerank])
def test_a_schema_calls_it_text(kind: Any) -> None:
    assert kind.model_json_schema()["properties"]["model"]["type"] == "string"
