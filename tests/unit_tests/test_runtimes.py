"""Every runtime gives sentence-transformers' vectors, whatever model it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from sentence_transformers import SentenceTransformer

from langchain_gpu.embeddings import GPUEmbeddings
from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.encoder import Vectors
from tests.unit_tests.tiny_models import WINDOW

Tiny = Callable[[str], str]

ALL = ["bert", "bert-without-prompt", "roberta-cls", "qwen3-last-token", "static"]
CASES = [
    *(("torch", name) for name in ALL),
    *(("openvino", name) for name in ("bert", "roberta-cls")),
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
    ("backend", "name"), [("torch", "bert"), ("openvino", "bert"), ("torch", "qwen3-last-token")]
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
    assert fast == {name: name != "static" for name in ALL}


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


class TestOpenVINO:
    """What is particular to the runtime that auto takes on a CPU."""

    def test_auto_takes_it_and_says_so(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cpu", dtype="float32")
        assert embeddings.backend_reason == "openvino: the fastest on a CPU, and installed"

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("static", "prepares its texts in its own way"),
            ("bert-without-prompt", "its pooling"),
            # rows of padding on the left see no token at all, which the traced softmax makes NaN
            ("qwen3-last-token", "computes something else when traced"),
        ],
    )
    def test_what_it_cannot_run_goes_to_torch(self, tiny: Tiny, name: str, match: str) -> None:
        automatic = GPUEmbeddings(model=tiny(name), device="cpu", dtype="float32")
        assert automatic.backend_reason.startswith("torch: openvino does not take the model")
        with pytest.raises(NotConvertibleError, match=match):
            GPUEmbeddings(model=tiny(name), backend="openvino").embed_query("one")

    def test_without_it_auto_names_the_pip_line(
        self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("langchain_gpu.engine.backends.is_installed", lambda _: False)
        reason = GPUEmbeddings(model=tiny("bert"), device="cpu").backend_reason
        assert 'pip install "langchain-gpu[openvino]"' in reason

    def test_float16_on_a_cpu_goes_to_torch(self, tiny: Tiny) -> None:
        embeddings = GPUEmbeddings(model=tiny("bert"), device="cpu", dtype="float16")
        assert embeddings.backend_reason.startswith("torch: openvino does not compute in float16")

    def test_a_model_is_converted_once(
        self, tiny: Tiny, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = GPUEmbeddings(model=tiny("bert"), backend="openvino", dtype="float32")
        vector = first.embed_query("the gpu")
        assert list(cache.glob("langchain-gpu/openvino/bert-*/model.xml"))

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("converted again")

        monkeypatch.setattr("openvino.convert_model", refuse)
        again = GPUEmbeddings(model=tiny("bert"), backend="openvino", dtype="float32")
        assert again.embed_query("the gpu") == vector

    def test_a_cache_that_cannot_be_written_is_no_failure(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        embeddings = GPUEmbeddings(model=tiny("bert"), backend="openvino", dtype="float32")
        with pytest.warns(RuntimeWarning, match="is not cached"):
            embeddings.embed_query("one")

    def test_a_conversion_that_computes_something_else_is_refused(
        self, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if tracing had lost something: the converted module sees its ids reversed."""
        convert = openvino.convert_model

        def lossy(module: torch.nn.Module, **kwargs: Any) -> Any:
            module.register_forward_hook(lambda _module, _inputs, output: output.flip(1))
            try:
                return convert(module, **kwargs)
            finally:
                module._forward_hooks.clear()

        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(openvino, "convert_model", lossy)
        embeddings = GPUEmbeddings(model=tiny("bert"), backend="openvino", dtype="float32")
        with pytest.raises(NotConvertibleError, match="computes something else when traced"):
            embeddings.embed_query("one")
        assert not list(tmp_path.rglob("model.xml")), "it must not be cached"

    def test_another_device_is_refused(self, tiny: Tiny) -> None:
        from langchain_gpu.engine.backends import create
        from langchain_gpu.engine.config import EmbedderConfig
        from langchain_gpu.hardware.devices import Device

        card = Device(kind="cuda", index=0, name="fake", reason="fake")
        with pytest.raises(ValueError, match="runs on the CPU, not on cuda:0"):
            create(EmbedderConfig(model=tiny("bert"), backend="openvino"), card)
