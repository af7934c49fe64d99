"""Half precision rounds what a model has learned, and not what it computes for itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM

from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.runtimes.torch import TorchEncoder
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.events import FallbackWarning
from langchain_gpu.generators.hf_model import HFModel
from langchain_gpu.generators.registry import Options
from langchain_gpu.hardware.devices import Device, select_device
from langchain_gpu.torch_models.move import move_model
from tests.unit_tests.tiny_chat import build_chat
from tests.unit_tests.tiny_models import LONG_WINDOW, WORDS

Tiny = Callable[[str], str]

HALF = Device(kind="cpu", name="a card", reason="the test says so", dtype="bfloat16")
WHOLE = Device(kind="cpu", name="a processor", reason="the test says so", dtype="float32")
LONG = ["qwen3-long", "modernbert-long", "gemma3-long"]
TEXTS = [
    " ".join(np.random.default_rng(length).choice(WORDS, size=length))
    for length in (600, 800, 1000)
]


def peer(path: str, dtype: str) -> SentenceTransformer:
    model_kwargs = {"dtype": getattr(torch, dtype)}
    return SentenceTransformer(path, device="cpu", model_kwargs=model_kwargs)


def embed(model: TorchEncoder) -> Vectors:
    tokens = model.tokenize(TEXTS, EmbedOptions())
    assert tokens.lengths.min() > 512
    assert tokens.lengths.max() <= LONG_WINDOW
    return model.forward(model.prepare(tokens, np.arange(len(TEXTS))))()


def least_cosine(ours: Vectors, theirs: Vectors) -> float:
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / norms).min())


def check_buffers(ours: Any, theirs: Any) -> None:
    wanted = dict(theirs.named_buffers())
    found = dict(ours.named_buffers())
    assert found.keys() == wanted.keys()
    for name, buffer in wanted.items():
        assert found[name].dtype == buffer.dtype, name
        assert torch.equal(found[name], buffer), name
    frequencies = [buffer for name, buffer in found.items() if name.endswith("inv_freq")]
    assert {each.dtype for each in frequencies} == {torch.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", LONG)
def test_long_texts_are_embedded_as_sentence_transformers_does(
    tiny: Tiny, name: str, dtype: str
) -> None:
    ours, theirs = TorchEncoder(Path(tiny(name)), WHOLE, dtype=dtype), peer(tiny(name), dtype)
    check_buffers(ours._model, theirs)
    wanted = theirs.encode(TEXTS, convert_to_tensor=True).float().numpy()
    assert least_cosine(embed(ours), wanted) >= 0.9999


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_that_need_float32_have_it(tiny: Tiny, dtype: str) -> None:
    ours, theirs = TorchEncoder(Path(tiny("t5")), WHOLE, dtype=dtype), peer(tiny("t5"), dtype)
    wanted = {name: weight.dtype for name, weight in theirs.named_parameters()}
    assert (torch.float32 in wanted.values()) == (dtype == "float16")
    assert {name: weight.dtype for name, weight in ours._model.named_parameters()} == wanted
    tokens = ours.tokenize(WORDS[:3], EmbedOptions())
    found = ours.forward(ours.prepare(tokens, np.arange(3)))()
    expected = theirs.encode(WORDS[:3], convert_to_tensor=True).float().numpy()
    assert least_cosine(found, expected) >= 0.9999


@pytest.mark.parametrize("name", LONG[:2])
def test_a_fallback_to_float32_has_rounded_weights_and_exact_positions(
    tiny: Tiny, name: str
) -> None:
    model = TorchEncoder(Path(tiny(name)), HALF)
    before = embed(model)
    model.to(WHOLE)
    assert model.dtype == "float32"
    check_buffers(model._model, peer(tiny(name), "float32"))
    rounded = peer(tiny(name), "bfloat16").float()  # which widens, and no more
    for ours, theirs in zip(model._model.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert least_cosine(embed(model), rounded.encode(TEXTS)) >= 0.99999
    model.to(HALF)
    check_buffers(model._model, peer(tiny(name), "bfloat16"))
    assert np.array_equal(embed(model), before)


def test_a_chat_model_that_moves_to_the_cpu_keeps_its_positions(tmp_path: Path) -> None:
    path = Path(build_chat(tmp_path))
    options = Options(device="cpu", dtype="bfloat16")
    for loaded in (torch.bfloat16, torch.float32):
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
        chat = HFModel(path, select_device("cpu"), 1, options)
        with pytest.warns(FallbackWarning, match="the card is full"):
            moved = chat._to_cpu(
                AutoModelForCausalLM.from_pretrained(path, dtype=loaded), "the card is full"
            )
        assert moved.dtype == torch.bfloat16
        check_buffers(moved, theirs)


class Buffers(torch.nn.Module):
    def __init__(self, shared: torch.Tensor) -> None:
        super().__init__()
        self.register_parameter("weight", torch.nn.Parameter(torch.rand(3)))
        self.register_buffer("saved", torch.rand(3))
        self.register_buffer("own", torch.rand(3), persistent=False)
        self.register_buffer("shared", shared, persistent=False)
        self.register_buffer("scale", torch.rand(3).bfloat16(), persistent=False)
        self.register_buffer("count", torch.arange(3), persistent=False)


def test_which_buffers_are_cast() -> None:
    shared = torch.rand(3)
    model = torch.nn.ModuleDict({"left": Buffers(shared), "right": Buffers(shared)})
    before = {name: each.clone() for name, each in model.named_buffers(remove_duplicate=False)}
    for dtype in (torch.float16, torch.float32):
        move_model(model, "cpu", dtype)
        for part in model.values():
            assert part.weight.dtype == part.saved.dtype == dtype
            assert part.own.dtype == part.shared.dtype == torch.float32
            assert part.count.dtype == torch.int64
        assert model["left"].scale.dtype == dtype
        after = dict(model.named_buffers(remove_duplicate=False))
        for name in ("left.own", "right.own", "left.shared", "right.shared"):
            assert torch.equal(after[name], before[name])
        assert model.state_dict().keys() == {
            f"{side}.{name}" for side in ("left", "right") for name in ("weight", "saved")
        }
