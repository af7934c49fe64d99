"""A model of which a file is damaged or missing: the error names the model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from langchain_gpu import GPUEmbeddings, GPURerank


@pytest.fixture
def folder(tiny: Callable[[str], str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny("bert"), tmp_path / "a-model"))


def embed(folder: Path) -> None:
    GPUEmbeddings(model=str(folder)).embed_query("gpu")


def test_weights_that_end_early(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ValueError, match="a-model is damaged; download it again: .*header"):
        embed(folder)


@pytest.mark.parametrize("name", ["modules.json", "config_sentence_transformers.json"])
def test_settings_that_end_early(folder: Path, name: str) -> None:
    os.truncate(folder / name, 2)
    with pytest.raises(ValueError, match="a-model.* is damaged; download it again: "):
        embed(folder)


def test_a_part_that_is_missing(folder: Path) -> None:
    shutil.rmtree(folder / "1_Pooling")
    with pytest.raises(TypeError) as caught:
        embed(folder)
    assert caught.value.__notes__ == [f"while the model in {folder} was loaded"]


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the weights of a model."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})


def lose(weights: dict[str, torch.Tensor]) -> None:
    for layer in (0, 1):
        for part in ("query", "key"):
            del weights[f"encoder.layer.{layer}.attention.self.{part}.weight"]


def narrow(weights: dict[str, torch.Tensor]) -> None:
    name = "encoder.layer.1.output.dense.weight"
    weights[name] = weights[name][:, :-1].contiguous()


def rename(weights: dict[str, torch.Tensor]) -> None:
    """As a checkpoint of a trainer has it."""
    for name in list(weights):
        weights[f"module.{name}"] = weights.pop(name)


@pytest.mark.parametrize(
    ("edit", "count", "named"),
    [
        (lose, 4, r"encoder\.layer\.0\.attention\.self\.key\.weight, .*, \.\.\."),
        (narrow, 1, r"encoder\.layer\.1\.output\.dense\.weight"),
        (rename, 37, r"embeddings\.LayerNorm\.bias, .*"),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_weights_that_are_not_there(
    folder: Path,
    edit: Callable[[dict[str, torch.Tensor]], None],
    count: int,
    named: str,
    backend: Literal["torch", "openvino"],
) -> None:
    """Random ones would take their place: other vectors in each process."""
    change(folder, edit)
    told = rf"a-model lacks {count} of the weights of BertModel.* \({named}\).*download it again"
    with pytest.raises(ValueError, match=told):
        GPUEmbeddings(model=str(folder), backend=backend, device="cpu").embed_query("gpu")


def test_weights_that_nothing_uses(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pooler that the model's own pooling leaves out, and the head of another task."""
    wanted = GPUEmbeddings(model=str(folder), dtype="float32").embed_query("gpu")

    def edit(weights: dict[str, torch.Tensor]) -> None:
        del weights["pooler.dense.weight"], weights["pooler.dense.bias"]
        weights["cls.predictions.bias"] = torch.zeros(3)

    change(folder, edit)
    caplog.clear()
    assert GPUEmbeddings(model=str(folder), dtype="float32").embed_query("gpu") == wanted
    assert not [record for record in caplog.records if record.name.startswith("transformers")]


@pytest.mark.parametrize("lost", ["classifier.weight", "bert.pooler.dense.weight"])
def test_a_reranker_without_all_weights(
    tiny_reranker: Callable[[str], str], tmp_path: Path, lost: str
) -> None:
    folder = Path(shutil.copytree(tiny_reranker("bert"), tmp_path / "a-model"))
    change(folder, lambda weights: void(weights.pop(lost)))
    told = f"a-model lacks 1 of the weights of BertForSequenceClassification.*{lost}"
    with pytest.raises(ValueError, match=told):
        GPURerank(model=str(folder)).score([("gpu", "a gpu")])


def void(_: object) -> None:
    """Throw a value away."""


def test_nothing_is_refused_where_transformers_marks_no_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = PreTrainedModel.from_pretrained.__func__

    def unmarked(kind: type[PreTrainedModel], *args: Any, **kwargs: Any) -> Any:
        loaded = load(kind, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for weight in model.parameters():
            del weight._is_hf_initialized
        return loaded

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(unmarked))
    assert GPUEmbeddings(model=str(folder), backend="torch").embed_query("one")
