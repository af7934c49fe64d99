"""Every runtime gives sentence-transformers' vectors, whatever model it is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from langchain_gpu.embeddings import GPUEmbeddings
from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.runtimes.loading import load_embedder
from langchain_gpu.events import TruncationWarning
from tests.unit_tests.tiny_models import WINDOW

Tiny = Callable[[str], str]

ALL = [
    "bert",
    "bert-short",
    "bert-two-heads",
    "bert-without-prompt",
    "roberta-cls",
    "qwen3-last-token",
    "static",
]
OWN_WAY = ("bert-two-heads", "static")
CASES = [
    *(("torch", name) for name in ALL),
    *(("openvino", name) for name in ("bert", "bert-short", "roberta-cls", "qwen3-last-token")),
]
TEXTS = [
    "",
    " ",
    "\n\t\n",
    "The GPU is fast.",
    "one two\none two",
    "a nul \x00 inside",
    "naïve café 漢字 🙂",
    "the memory of the gpu " * 3,
    "token " * (WINDOW * 4),  # beyond the window
    *(f"{word} batch {'model ' * (number % 20)}" for number, word in enumerate("abcdefghij" * 5)),
]


def cosines(left: Vectors, right: Vectors) -> Vectors:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    result: Vectors = (left * right).sum(axis=1) / np.maximum(norms, 1e-12)
    return result


def reference(path: str, kind: str = "document") -> Vectors:
    model = SentenceTransformer(path, device="cpu")
    encode = model.encode_document if kind == "document" else model.encode_query
    vectors: Vectors = np.stack([encode([text])[0] for text in TEXTS])  # one by one: no padding
    return vectors


@pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning")
@pytest.mark.parametrize(("backend", "name"), CASES)
class TestParity:
    def test_documents_in_float32(self, tiny: Tiny, backend: Any, name: str) -> None:
        ours = GPUEmbeddings(model=tiny(name), backend=backend, dtype="float32").embed_to_array(
            TEXTS
        )
        theirs = reference(tiny(name))
        assert np.allclose(ours, theirs, atol=1e-5), np.abs(ours - theirs).max(axis=1)

    def test_queries_in_float32(self, tiny: Tiny, backend: Any, name: str) -> None:
        embeddings = GPUEmbeddings(model=tiny(name), backend=backend, dtype="float32")
        ours = np.array([embeddings.embed_query(text) for text in TEXTS])
        assert np.allclose(ours, reference(tiny(name), "query"), atol=1e-5)

    def test_any_order_and_any_budget(self, tiny: Tiny, backend: Any, name: str) -> None:
        order = np.random.default_rng(1).permutation(len(TEXTS))
        embeddings = GPUEmbeddings(
            model=tiny(name), backend=backend, dtype="float32", max_batch_tokens=40
        )
        shuffled = embeddings.embed_to_array([TEXTS[row] for row in order])
        assert np.allclose(shuffled, reference(tiny(name))[order], atol=1e-5)

    def test_half_precision(self, tiny: Tiny, backend: Any, name: str) -> None:
        ours = GPUEmbeddings(model=tiny(name), backend=backend, dtype="bfloat16").embed_to_array(
            TEXTS
        )
        theirs = reference(tiny(name))
        present = np.linalg.norm(theirs, axis=1) > 0  # a static model knows no word of some texts
        assert cosines(ours, theirs)[present].min() >= 0.995
        assert ours.dtype == np.float32


@pytest.mark.parametrize(
    ("backend", "name"),
    [(backend, name) for backend in ("torch", "openvino") for name in ("bert", "qwen3-last-token")],
)
def test_half_precision_unit_vectors_are_units(tiny: Tiny, backend: Any, name: str) -> None:
    embeddings = GPUEmbeddings(model=tiny(name), backend=backend, dtype="bfloat16")
    vectors = embeddings.embed_to_array(["the gpu", "a"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_which_models_use_the_fast_tokenization(tiny: Tiny) -> None:
    fast = {
        name: GPUEmbeddings(model=tiny(name))._load().encoder._tokenizer is not None  # type: ignore[attr-defined]
        for name in ALL
    }
    assert fast == {name: name not in OWN_WAY for name in ALL}


@pytest.mark.parametrize("name", ["qwen3-last-token", "gemma3-long"])
def test_no_keys_and_values_are_kept_for_a_next_token(tiny: Tiny, name: str) -> None:
    model = load_embedder(Path(tiny(name)), {"config_kwargs": {"use_cache": True}})
    features = model.tokenize(["a text"])
    assert "past_key_values" not in model[0].model(**features)


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_one_program_is_not_two_heads(tiny: Tiny, backend: Any) -> None:
    """What is traced knows one of the two only, and queries would go the documents' way."""
    with pytest.raises(NotConvertibleError, match="in its own way"):
        GPUEmbeddings(model=tiny("bert-two-heads"), backend=backend).embed_query("gpu")
    assert "torch" in GPUEmbeddings(model=tiny("bert-two-heads"), device="cpu").backend_reason


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_the_models_argument_for_fewer_dimensions(tiny: Tiny, backend: Any) -> None:
    given = {"model": tiny("bert"), "backend": backend, "dtype": "float32"}
    embeddings = GPUEmbeddings(**given, model_kwargs={"truncate_dim": 8})
    texts = ["the gpu", "one"]
    vectors = embeddings.embed_to_array(texts)
    model = SentenceTransformer(tiny("bert"), device="cpu", truncate_dim=8)
    assert np.allclose(vectors, model.encode_document(texts), atol=1e-5)
    assert embeddings.dimension == 8


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_the_end_of_a_text_where_the_model_wants_that(tiny: Tiny, backend: Any) -> None:
    embeddings = GPUEmbeddings(model=tiny("bert-left-cut"), dtype="float32", backend=backend)
    text = "the gpu is fast and the cpu is slow " * WINDOW + "one two memory"
    with pytest.warns(TruncationWarning):
        vector = embeddings.embed_documents([text])
    model = SentenceTransformer(tiny("bert-left-cut"), device="cpu")
    assert np.allclose(vector, model.encode_document([text]), atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "torch", "openvino", "onnx"])
def test_no_embedder_is_made_of_another_kind_of_model(
    tiny: Tiny, tiny_reranker: Tiny, backend: Any
) -> None:
    with pytest.raises(
        ValueError, match="sparse is not an embedder but a SparseEncoder: its vectors"
    ):
        GPUEmbeddings(model=tiny("sparse"), backend=backend).embed_query("gpu")
    reranker = tiny_reranker("bert-identity")
    with pytest.raises(ValueError, match="not an embedder but a CrossEncoder: use GPURerank"):
        GPUEmbeddings(model=reranker, backend=backend).embed_query("gpu")


def test_a_reranker_without_settings_is_no_embedder_either(
    tiny: Tiny, tiny_reranker: Tiny, tmp_path: Path
) -> None:
    """As most lie on the hub. What classifies texts is taken, as sentence-transformers does."""
    folder = tmp_path / "plain"
    shutil.copytree(tiny_reranker("bert-identity"), folder)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(
        ValueError, match="plain is not an embedder but a CrossEncoder: use GPURerank"
    ):
        GPUEmbeddings(model=str(folder)).embed_query("gpu")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "bad", "1": "good"}
    (folder / "config.json").write_text(json.dumps(config))
    assert len(GPUEmbeddings(model=str(folder), backend="torch").embed_query("gpu")) == 24


@pytest.mark.parametrize("name", ["bert", "static"])
def test_counting_tokens_cuts_nothing(tiny: Tiny, name: str) -> None:
    embeddings = GPUEmbeddings(model=tiny(name))
    counts = embeddings.count_tokens(["gpu", "gpu " * 10, "gpu " * 100, ""])
    special = counts[3]
    assert counts == [1 + special, 10 + special, 100 + special, special]
    assert embeddings.window == (WINDOW if name == "bert" else None)


def test_mean_of_the_windows_of_a_long_text(tiny: Tiny) -> None:
    embeddings = GPUEmbeddings(model=tiny("bert"), dtype="float32", on_long="mean")
    words = ["gpu"] * (WINDOW - 2) + ["slow"] * (WINDOW - 2) + ["fast"] * 5
    pieces = [words[: WINDOW - 2], words[WINDOW - 2 : 2 * (WINDOW - 2)], words[2 * (WINDOW - 2) :]]
    no_prompt = embeddings.model_copy(update={"encode_kwargs": {"prompt": ""}})
    parts = no_prompt.embed_to_array([" ".join(piece) for piece in pieces])
    rows = no_prompt.embed_with_report(["the gpu", " ".join(words), ""])
    mean = np.average(parts, axis=0, weights=[WINDOW, WINDOW, 7])
    assert np.allclose(rows.vectors[1], mean / np.linalg.norm(mean), atol=1e-5)
    assert np.allclose(rows.vectors[[0, 2]], no_prompt.embed_to_array(["the gpu", ""]), atol=1e-6)
    assert rows.report.truncated == ()


def test_no_windows_where_the_prompt_is_left_out(tiny: Tiny) -> None:
    """Only the first window has it, and the others would lose as many tokens of the text."""
    embeddings = GPUEmbeddings(model=tiny("bert-without-prompt"), on_long="mean")
    for text in ("gpu", "gpu " * WINDOW * 2):
        with pytest.raises(ValueError, match="takes no prompt here.* choose on_long='truncate'"):
            embeddings.embed_query(text)
    texts = ["gpu", "gpu " * WINDOW + "slow " * WINDOW]
    without, plain = (
        GPUEmbeddings(
            model=tiny(name),
            backend="torch",
            dtype="float32",
            on_long="mean",
            encode_kwargs={"prompt": ""},
        ).embed_to_array(texts)
        for name in ("bert-without-prompt", "bert")
    )
    assert np.allclose(without, plain, atol=1e-6)


def test_a_megabyte_of_which_a_window_is_kept(tiny: Tiny) -> None:
    """The shortcut for huge texts keeps exactly the window that reading all of it would keep."""
    embeddings = GPUEmbeddings(model=tiny("bert"), dtype="float32")
    texts = [
        "gpu cpu memory " * 100_000,
        " " * 100_000 + "gpu cpu " * 100,  # the head holds nothing: read in full
        "x" * 100_000,  # no space to cut at
        " " * 100_000 + "gpu",
    ]
    with pytest.warns(UserWarning, match="2 of 4 texts are longer"):
        rows = embeddings.embed_with_report(texts)
    model = SentenceTransformer(tiny("bert"), device="cpu")
    assert np.allclose(rows.vectors, model.encode_document(texts), atol=1e-5)
    assert rows.report.truncated == (0, 1)
