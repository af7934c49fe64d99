"""Torch on a real card: rows end to end, CUDA graphs, copies back. Skipped where there is none."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.hardware.devices import select_device
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.conftest import MINILM

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")

TEXTS = [
    f"{'The memory of a card is what it computes with. ' * (number % 17)} {number}"
    for number in range(200)
]
NAMES = ["bert", "roberta-cls", "xlm-roberta", "modernbert", "qwen3-last-token", MINILM]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    from tests.unit_tests.tiny_models import build

    def path(name: str) -> str:
        if name == MINILM:
            return str(resolve(MINILM).path)
        return build(tmp_path_factory.mktemp(name), name)

    return path


def encoder(path: str, device: str = "cuda:0", dtype: str = "bfloat16", **options: Any) -> Any:
    from langchain_gpu.engine.runtimes.torch import TorchEncoder

    return TorchEncoder(Path(path), select_device(device), dtype=dtype, options=options)


def embed(model: Any, texts: list[str]) -> Vectors:
    tokens = model.tokenize(texts, EmbedOptions())
    vectors: Vectors = model.forward(model.prepare(tokens, np.arange(len(texts))))()
    return vectors


def least_cosine(left: Vectors, right: Vectors) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_packed_rows_in_half_precision(
    model_path: Callable[[str], str], name: str, dtype: str
) -> None:
    path = model_path(name)
    model = encoder(path, dtype=dtype)
    assert model.attention.startswith("packed ("), model.attention
    assert not model.rules.padded
    exact = embed(encoder(path, "cpu", "float32"), TEXTS)
    # Random weights as sharp as these amplify rounding; the real model has none of that.
    assert least_cosine(embed(model, TEXTS), exact) >= (0.999 if name == MINILM else 0.98)


def test_full_precision_is_padded(model_path: Callable[[str], str]) -> None:
    path = model_path(MINILM)
    model = encoder(path, dtype="float32")
    assert model.attention.startswith("padded: attention kernels for rows end to end")
    assert least_cosine(embed(model, TEXTS), embed(encoder(path, "cpu", "float32"), TEXTS)) > 0.9999


def test_recorded_batches_give_the_same_rows(model_path: Callable[[str], str]) -> None:
    path = model_path(MINILM)
    recording, plain = encoder(path), encoder(path, cuda_graphs=False)
    assert recording.graphs.startswith("on")
    for turn in range(8):
        texts = TEXTS[turn : turn + 40]
        assert least_cosine(embed(recording, texts), embed(plain, texts)) >= 0.9999
    assert recording.graphs.startswith("on"), recording.graphs  # no recording failed
    assert recording._graphs.kept or recording._graphs.dropped


def test_batches_in_flight_do_not_mix(model_path: Callable[[str], str]) -> None:
    model = encoder(model_path(MINILM))
    tokens = model.tokenize(TEXTS, EmbedOptions())
    parts = np.array_split(np.arange(len(TEXTS)), 20)
    wanted = [model.forward(model.prepare(tokens, part))() for part in parts]
    for turn in range(0, 20, 2):
        first = model.forward(model.prepare(tokens, parts[turn]))
        second = model.forward(model.prepare(tokens, parts[turn + 1]))
        assert least_cosine(second(), wanted[turn + 1]) >= 0.9999
        assert least_cosine(first(), wanted[turn]) >= 0.9999


def test_what_a_batch_takes(model_path: Callable[[str], str]) -> None:
    model = encoder(model_path(MINILM))
    small, large = model.peak_bytes(1024), model.peak_bytes(16384)
    assert 0 < small < large


def test_closing_gives_everything_back(model_path: Callable[[str], str]) -> None:
    path = model_path(MINILM)
    use_and_close(path)  # cuBLAS keeps what it took at first for as long as the process lives
    before = torch.cuda.memory_allocated()
    use_and_close(path)
    assert torch.cuda.memory_allocated() - before < 1 << 20


def use_and_close(path: str) -> None:
    model = encoder(path)
    for _ in range(6):
        embed(model, TEXTS)
    model.close()
    del model
    gc.collect()
