"""The forms in which vectors come back, and the memory they leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.runtimes.loading import load_embedder, load_reranker
from langchain_gpu.events import Event
from tests.unit_tests.tiny_models import WINDOW

Tiny = Callable[[str], str]
TEXTS = ["the gpu is fast", "one", "memory of the model and the batch", "two two two"] * 5


def test_tokens_are_texts(tiny: Tiny) -> None:
    model = GPUEmbeddings(model=tiny("bert"), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(tiny("bert"))
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert np.allclose(model.embed_tokens(ids), model.embed_to_array(TEXTS), atol=1e-6)
    assert np.allclose(
        model.embed_tokens([np.array(each) for each in ids][:2]),
        model.embed_to_array(TEXTS[:2]),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[2, 3], []], "token row 1 is empty"),
        ([[2, 3], [1] * (WINDOW + 1)], f"token row 1 has {WINDOW + 1} ids"),
        ([[2, 3], [2, 10**6]], "token row 1 holds an id outside the vocabulary"),
        ([[2, -1]], "token row 0 holds an id outside the vocabulary"),
    ],
)
def test_bad_tokens_are_named(tiny: Tiny, rows: list[list[int]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GPUEmbeddings(model=tiny("bert")).embed_tokens(rows)


def test_truncated_vectors_keep_their_norm(tiny: Tiny) -> None:
    whole = GPUEmbeddings(model=tiny("bert"), dtype="float32")
    short = GPUEmbeddings(model=tiny("bert"), dtype="float32", truncate_dim=8)
    assert (whole.dimension, short.dimension) == (24, 8)
    vectors = whole.embed_to_array(TEXTS)
    wanted = vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True)
    wanted *= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(short.embed_documents(TEXTS), wanted, atol=1e-5)
    assert len(short.embed_query(TEXTS[0])) == 8
    with pytest.raises(ValueError, match="truncate_dim=25, but the model's vectors have 24"):
        GPUEmbeddings(model=tiny("bert"), truncate_dim=25).embed_query("one")


def test_more_dimensions_than_there_are_are_refused_before_anything_is_computed(tiny: Tiny) -> None:
    events: list[Event] = []
    wide = GPUEmbeddings(model=tiny("bert"), truncate_dim=25, on_event=events.append)
    calls: list[Callable[[], object]] = [
        lambda: wide.embed_documents(TEXTS),
        lambda: wide.embed_to_array(TEXTS * 5),
        lambda: wide.embed_with_report(TEXTS, on_error="skip"),
        lambda: wide.embed_tokens([[2, 3]]),
        lambda: asyncio.run(wide.aembed_query("one")),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="truncate_dim=25, but the model's vectors have 24"):
            call()
    assert events == []


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_dtypes_keep_the_direction_of_a_vector(tiny: Tiny, precision: Any) -> None:
    model = GPUEmbeddings(model=tiny("bert"), dtype="float32", precision=precision)
    vectors = model.embed_to_array(TEXTS)
    assert vectors.dtype == precision
    exact = GPUEmbeddings(model=tiny("bert"), dtype="float32").embed_to_array(TEXTS)
    wide = vectors.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((wide * exact).sum(1) / norms).min() > 0.9995
    assert np.array_equal(model.embed_documents(TEXTS[:2]), model.embed_to_array(TEXTS[:2]))


def test_precision_given_in_two_places_is_refused(tiny: Tiny) -> None:
    model = GPUEmbeddings(
        model=tiny("bert"), precision="int8", encode_kwargs={"precision": "ubinary"}
    )
    with pytest.raises(ValueError, match="use one"):
        model.embed_query("one")


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_into_the_callers_file(tiny: Tiny, tmp_path: Path, precision: Any) -> None:
    model = GPUEmbeddings(model=tiny("bert"), dtype="float32", precision=precision)
    shape = (len(TEXTS), 24)
    out = np.memmap(tmp_path / "vectors", dtype=precision, mode="w+", shape=shape)
    assert model.embed_to_array(TEXTS, out=out) is out
    out.flush()
    found = np.fromfile(tmp_path / "vectors", dtype=precision).reshape(shape)
    assert np.array_equal(found, model.embed_to_array(TEXTS))


def test_a_buffer_that_does_not_fit(tiny: Tiny) -> None:
    model = GPUEmbeddings(model=tiny("bert"), precision="float16")
    for out in (np.empty((1, 24), np.float16), np.empty((20, 24), np.float32)):
        with pytest.raises(ValueError, match=r"out must be float16 of shape \(20, 24\)"):
            model.embed_to_array(TEXTS, out=out)


def test_a_buffer_that_cannot_be_written(tiny: Tiny, tmp_path: Path) -> None:
    model = GPUEmbeddings(model=tiny("bert"))
    shape = (len(TEXTS), 24)
    np.zeros(shape, np.float32).tofile(tmp_path / "vectors")
    out = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="r", shape=shape)
    with pytest.raises(ValueError, match="read-only; open a memmap with mode 'r\\+'"):
        model.embed_to_array(TEXTS, out=out)
    rows: Any = [[0.0] * 24] * len(TEXTS)
    with pytest.raises(TypeError, match="out must be a NumPy array, not list"):
        model.embed_to_array(TEXTS, out=rows)


@pytest.mark.parametrize(
    ("kwargs", "dtype", "width"),
    [
        ({"truncate_dim": 8}, "float32", 8),
        ({"truncate_dim": 25}, "float32", 24),
        ({"precision": "int8"}, "int8", 24),
        ({"precision": "binary", "truncate_dim": 12}, "int8", 2),
        ({"precision": "ubinary"}, "uint8", 3),
    ],
)
def test_a_buffer_for_vectors_that_encode_kwargs_change(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], dtype: str, width: int
) -> None:
    monkeypatch.setattr("langchain_gpu.embeddings._STRETCH", 3)
    model = GPUEmbeddings(model=tiny("bert"), dtype="float32", encode_kwargs=kwargs)
    assert model.dimension == width
    out = np.zeros((len(TEXTS), width), dtype)
    assert model.embed_to_array(TEXTS, out=out) is out
    assert np.array_equal(out, model.embed_to_array(TEXTS))
    nothing = model.embed_to_array([])
    assert nothing.shape == (0, width)
    assert nothing.dtype == np.dtype(dtype)


def test_a_bad_text_is_found_behind_the_first_part(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_gpu.embeddings._STRETCH", 3)
    model = GPUEmbeddings(model=tiny("bert"), precision="float16")
    texts: list[Any] = ["one"] * 4 + [None]
    with pytest.raises(TypeError, match="text 1 is NoneType") as caught:
        model.embed_to_array(texts, out=np.empty((5, 24), np.float16))
    assert caught.value.__notes__ == ["in the part of the texts that starts at text 3"]


def test_idle_it_frees_its_memory_and_comes_back(tiny: Tiny) -> None:
    model = GPUEmbeddings(model=tiny("bert"), dtype="float32", idle_timeout=0.1)
    vector = model.embed_query("one")
    deadline = time.monotonic() + 20
    while model._loaded.keeper.loaded is not None:
        assert time.monotonic() < deadline, "never freed"
        time.sleep(0.02)
    assert np.allclose(model.embed_query("one"), vector, atol=1e-6)


_FREED = """
import gc, sys, psutil
from langchain_gpu import GPUEmbeddings

def used():
    gc.collect()
    return psutil.Process().memory_full_info().uss

def large():
    return GPUEmbeddings(model=sys.argv[1], backend=sys.argv[2], dtype="float32")

tiny = GPUEmbeddings(model=sys.argv[3], backend=sys.argv[2], dtype="float32")
tiny.embed_query("libraries, threads and buffers are there after this")
tiny.close()
start = used()
model = large()
model.embed_documents(["a text of some words " * 20] * 64)
full = used()
model.close()
print(start, full, used())
"""


def test_a_model_that_is_dropped_waits_for_no_garbage_collection(
    tiny: Tiny, tiny_reranker: Tiny
) -> None:
    gc.disable()
    try:
        for load, path in ((load_embedder, tiny("bert")), (load_reranker, tiny_reranker("bert"))):
            model = load(Path(path), {})
            left = weakref.ref(model)
            del model
            assert left() is None
    finally:
        gc.enable()


@pytest.mark.models
@pytest.mark.parametrize(("backend", "starts"), [("torch", 1), ("openvino", 1), ("openvino", 2)])
def test_closing_gives_the_memory_back_to_the_system(
    tiny: Tiny, tmp_path: Path, backend: str, starts: int
) -> None:
    from langchain_gpu.models.resolve import resolve

    large = str(resolve("sentence-transformers/all-MiniLM-L6-v2").path)
    command = [sys.executable, "-c", _FREED, large, backend, tiny("bert")]
    # A cache of its own: a model that was converted before is loaded without torch.
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(starts):
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=True, text=True, env=own
        )
    start, full, after = map(int, done.stdout.split())
    assert full - start > 40_000_000, "of 90 MB weights; what lies in the file alone does not count"
    assert after - start < 0.25 * (full - start)
