"""GGUF rerankers, run for real by llama.cpp."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import CrossEncoder

from langchain_gpu import GPURerank
from langchain_gpu.events import FallbackWarning, TruncationWarning
from langchain_gpu.llama.errors import ModelLoadError
from langchain_gpu.models.gguf import read_head
from tests.unit_tests.gguf_bert import write_gguf
from tests.unit_tests.tiny_models import WORDS

ROWS = np.random.default_rng(0)
PAIRS = [
    (str(" ".join(ROWS.choice(WORDS, 3))), str(" ".join(ROWS.choice(WORDS, size))))
    for size in ROWS.integers(1, 24, 30)
]
Write = Callable[..., str]


@pytest.fixture(scope="module")
def write(tiny_reranker: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Write:
    def written(name: str = "bert-typeless", pooling: str = "rank") -> str:
        file = tmp_path_factory.mktemp("gguf") / f"{name}.gguf"
        return str(write_gguf(Path(tiny_reranker(name)), file, pooling=pooling))

    return written


@pytest.fixture(scope="module")
def reranker(write: Write) -> GPURerank:
    options = {"n_threads": 1}
    return GPURerank(model=write(), device="cpu", top_n=None, model_kwargs=options)


@pytest.fixture(scope="module")
def reference(tiny_reranker: Callable[[str], str]) -> Callable[[Any], Any]:
    model = CrossEncoder(tiny_reranker("bert-typeless"), device="cpu")
    return lambda pairs: model.predict(
        [list(pair) for pair in pairs], activation_fn=torch.nn.Identity()
    )


def test_it_scores_as_sentence_transformers(reranker: GPURerank, reference: Any) -> None:
    found, wanted = reranker.score(PAIRS), reference(PAIRS)
    assert np.ptp(wanted) > 3
    assert np.abs(found - wanted).max() < 0.03  # its GELU is a table of 16 bits
    assert spearmanr(found, wanted).statistic > 0.99
    assert reranker.backend_reason.startswith("llama_cpp: the model is a .gguf file")
    assert "llama.cpp" in reranker.devices[0].reason
    with reranker._use() as scorer:
        count = scorer._encoder.count_tokens([("the gpu", "memory")])  # type: ignore[attr-defined]
    assert count == [6]


def test_an_activation(reranker: GPURerank) -> None:
    logits = reranker.score(PAIRS[:5])
    made = reranker.model_copy(update={"activation": "sigmoid"})
    assert made.score(PAIRS[:5]) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def test_long_documents_are_cut_between_words_windowed_or_refused(
    reranker: GPURerank, reference: Any
) -> None:
    """Where the model's own limit is 32 tokens."""
    words = ROWS.choice(WORDS, 80).tolist()
    pairs = [("the gpu", " ".join(words)), ("the gpu", "memory")]
    with pytest.warns(TruncationWarning, match="1 of 2 pairs are longer than the 32"):
        found = reranker.score(pairs)
    cut = [("the gpu", " ".join(words[:27])), pairs[1]]
    assert found == pytest.approx(reference(cut), abs=0.03)
    windowed = reranker.model_copy(update={"on_long": "window"}).score(pairs)
    parts = [words[at : at + 27] for at in range(0, 80 - 27 + 21, 21)]
    best = max(reference([("the gpu", " ".join(part)) for part in parts]))
    assert windowed[0] == pytest.approx(best, abs=0.03)
    with pytest.raises(ValueError, match="pair 0 has 85 tokens, and 32 are read"):
        reranker.model_copy(update={"on_long": "error"}).score(pairs)


def test_a_text_without_spaces_is_in_windows_too(reranker: GPURerank) -> None:
    with reranker._use() as scorer:
        encoder: Any = scorer._encoder  # type: ignore[attr-defined]
        text = "".join(ROWS.choice(list("abcdefgh"), 200))
        windows = list(encoder._windows(text, 24))
    assert all(encoder._size(window) <= 24 for window in windows)
    covered = 0
    for window in windows:
        at = text.index(window)
        assert at <= covered
        covered = max(covered, at + len(window))
    assert covered == len(text)


def test_token_types_that_llama_cpp_lacks_are_reported(write: Write) -> None:
    file = write("bert-identity")
    with pytest.warns(FallbackWarning, match="runs on one token type, not two token types"):
        GPURerank(model=file, device="cpu", model_kwargs={"n_threads": 1}).score([("a", "b")])


def test_bad_input_is_named(reranker: GPURerank) -> None:
    with pytest.raises(ValueError, match="the document of pair 1 holds a lone surrogate"):
        reranker.score([("a", "b"), ("a", "\ud800")])
    told = reranker.model_copy(update={"instruction": "be kind"})
    with pytest.raises(ValueError, match="instruction is for rerankers that are language models"):
        told.score([("a", "b")])


def test_facts_of_a_file(write: Write, tmp_path: Path) -> None:
    path = Path(write())
    head = read_head(path)
    assert head.facts["general.architecture"] == "bert"
    assert head.facts["bert.block_count"] == 2
    assert head.tensors["cls.weight"] == (24, 24)
    assert head.tensors["cls.output.weight"] == (24, 1)
    for size in (10, 300, 3000):
        (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match="cut.gguf has no header that can be read"):
            read_head(tmp_path / "cut.gguf")


@pytest.mark.parametrize("length", [2**40, 2**63])
def test_a_head_with_a_length_beyond_all_memory(tmp_path: Path, length: int) -> None:
    file = tmp_path / "wild.gguf"
    file.write_bytes(struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, length))
    with pytest.raises(ValueError, match="wild.gguf has no header that can be read"):
        read_head(file)


def test_a_file_without_a_head(tiny: Callable[[str], str], tmp_path: Path) -> None:
    file = write_gguf(Path(tiny("bert")), tmp_path / "embedder.gguf")
    with pytest.raises(ModelLoadError, match="is not a reranker: it has no scoring head"):
        GPURerank(model=str(file), device="cpu", model_kwargs={"n_threads": 1}).score([("a", "b")])
