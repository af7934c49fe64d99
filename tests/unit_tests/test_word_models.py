"""Models without a transformer, or with unusual modules behind one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    BoW,
    Dense,
    Dropout,
    LayerNorm,
    Pooling,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from langchain_gpu import GPUEmbeddings
from tests.unit_tests.tiny_models import WORDS

Tiny = Callable[[str], str]
TEXTS = [
    *("the gpu is fast", "", "one", "a batch of text in memory and the model is slow " * 3),
    *("is it unknownword two", "gpu cpu token " * 30),
]


def words() -> WordEmbeddings:
    weights = np.random.default_rng(0).normal(size=(len(WORDS), 24)).astype(np.float32)
    return WordEmbeddings(
        WhitespaceTokenizer(WORDS, stop_words=["the"]), weights, max_seq_length=128
    )


KINDS: dict[str, Callable[[], list[Any]]] = {
    "counts": lambda: [BoW(WORDS, {"gpu": 2.0})],
    "counts, narrowed": lambda: [BoW(WORDS), Dense(len(WORDS), 8)],
    "words": lambda: [words(), Pooling(24, "mean"), Dense(24, 8)],
    "weighted words": lambda: [
        *(words(), WordWeights(WORDS, {"gpu": 3.0}), Pooling(24, "mean"), Dense(24, 8))
    ],
    "LSTM": lambda: [words(), LSTM(24, 16), Pooling(32, "mean")],
    "CNN": lambda: [words(), CNN(24, 8), Pooling(24, "mean")],
}
BEHIND: dict[str, list[Any]] = {
    "dense": [Pooling(24, "mean"), Dense(24, 8), Dropout(0.3), LayerNorm(8), Normalize()],
    "CNN": [CNN(24, 8), Pooling(24, "mean")],
    "layers": [WeightedLayerPooling(24, num_hidden_layers=2, layer_start=1), Pooling(24, "mean")],
}


def saved(modules: list[Any], folder: Path) -> str:
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return str(folder)


SHORT = ["the gpu is fast", "", "is it unknownword two"]


def same(model: str, dtype: str, texts: list[str], **given: Any) -> GPUEmbeddings:
    """Compare vectors with those of sentence-transformers, in float32."""
    wanted = SentenceTransformer(model, device="cpu").encode_document(texts)
    embeddings = GPUEmbeddings(model=model, device="cpu", dtype=dtype, **given)
    found = embeddings.embed_to_array(texts)
    if dtype == "float32":
        assert np.allclose(found, wanted, atol=1e-4)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(axis=1) >= 0.995 * lengths - 1e-6).all()
    return embeddings


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_words(kind: str, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    embeddings = same(saved(KINDS[kind](), tmp_path / "model"), dtype, TEXTS)
    assert "torch: openvino does not take the model" in embeddings.backend_reason
    assert embeddings.count_tokens(["one gpu", ""]) == [2, 1]


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("kind", BEHIND)
def test_unusual_modules_behind_a_transformer(
    kind: str, backend: Any, tiny: Tiny, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    first = SentenceTransformer(tiny("bert"), device="cpu")[0]
    same(saved([first, *BEHIND[kind]], tmp_path / "model"), "float32", SHORT, backend=backend)
