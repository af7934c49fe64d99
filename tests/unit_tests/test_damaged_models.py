"""A model of which a file is damaged or missing: the error names the model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_gpu.embeddings import GPUEmbeddings


@pytest.fixture
def folder(tiny: Callable[[str], str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("bert"), tmp_path / "a-model"))


def embed(folder: Path) -> None:
    GPUEmbeddings(model=str(folder)).embed_query("gpu")


def test_weights_that_end_early(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ValueError, match="a-model is damaged; fetch it again: .*header"):
        embed(folder)


@pytest.mark.parametrize("name", ["modules.json", "config_sentence_transformers.json"])
def test_settings_that_end_early(folder: Path, name: str) -> None:
    os.truncate(folder / name, 2)
    with pytest.raises(ValueError, match="a-model.* is damaged; fetch it again: "):
        embed(folder)


def test_a_part_that_is_missing(folder: Path) -> None:
    shutil.rmtree(folder / "1_Pooling")
    with pytest.raises(TypeError) as caught:
        embed(folder)
    assert caught.value.__notes__ == [f"while the model in {folder} was loaded"]
