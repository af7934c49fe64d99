"""A warning names the line of the user's program that led to it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from langchain_core.runnables import RunnableLambda

import langchain_gpu
from langchain_gpu import FAISSVectorStore, GPUEmbeddings
from langchain_gpu.events import FallbackWarning

Tiny = Callable[[str], str]


@pytest.fixture
def falling(tiny: Tiny) -> GPUEmbeddings:
    """Return a model that goes to the CPU as its GPU is not here."""
    if torch.cuda.is_available():
        pytest.skip("this machine has the device that is to be missing")
    return GPUEmbeddings(model=tiny("bert"), device="cuda")


@pytest.mark.parametrize("by", ["itself", "a store", "a chain"])
def test_it_is_named_through_our_frames_and_those_of_langchain(
    falling: GPUEmbeddings, by: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "itself": lambda: falling.embed_query("one"),
        "a store": lambda: FAISSVectorStore.from_texts(["one"], falling),
        "a chain": lambda: RunnableLambda(falling.embed_query).invoke("one"),
    }
    with pytest.warns(FallbackWarning) as caught:
        calls[by]()
    assert caught[0].filename == __file__


def test_in_a_thread_that_has_no_such_line_it_is_ours(falling: GPUEmbeddings) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.warns(FallbackWarning) as caught:
        pool.submit(falling.embed_query, "one").result()
    assert Path(langchain_gpu.__file__).parent in Path(caught[0].filename).parents
