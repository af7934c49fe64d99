"""A model that was converted before starts without torch, and computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from langchain_gpu import GPUEmbeddings, GPURerank
from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.runtimes.model_settings import ModelSettings
from langchain_gpu.engine.runtimes.tasks import EMBED, SCORE
from langchain_gpu.engine.tasks.activations import activate, name_of
from langchain_gpu.engine.tasks.embed import EmbedOptions
from langchain_gpu.engine.tasks.score import ScoreOptions

Tiny = Callable[[str], str]
TEXTS = ["the gpu is fast", "", "naïve  café 漢字", "memory of the model " * 40]
PAIRS = [(query, text) for query in ("is the gpu fast", "memory") for text in TEXTS]
HEAVY = ["torch", "transformers", "sentence_transformers", "sklearn", "nncf"]

EMBEDS = f"""
import json, sys
from langchain_gpu import GPUEmbeddings

given = json.loads(sys.argv[1])
with GPUEmbeddings(device="cpu", backend="openvino", **given) as embeddings:
    vectors = embeddings.embed_documents({TEXTS!r}) + [embeddings.embed_query("the gpu")]
    reason = embeddings.backend_reason
print(json.dumps([vectors, reason, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
RERANKS = f"""
import json, sys
from langchain_gpu import GPURerank

given = json.loads(sys.argv[1])
with GPURerank(device="cpu", backend="openvino", **given) as reranker:
    scores = reranker.score({PAIRS!r}).tolist()
print(json.dumps([scores, "", [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def elsewhere(program: str, **given: Any) -> tuple[Any, str, list[str]]:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", program, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603 - our own program
    assert done.returncode == 0, done.stderr
    found, reason, heavy = json.loads(done.stdout.splitlines()[-1])
    return found, reason, heavy


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("bert", {"dtype": "float32"}),
        ("bert", {"dtype": "int8"}),
        ("bert-left-cut", {"dtype": "float32"}),
        ("qwen3-last-token", {"dtype": "float32"}),
    ],
)
def test_vectors_of_a_later_process_are_the_same_and_torch_is_not_imported(
    tiny: Tiny, name: str, given: dict[str, Any]
) -> None:
    given = {"model": tiny(name), "on_long": "mean", **given}
    with GPUEmbeddings(device="cpu", backend="openvino", **given) as embeddings:
        wanted = [*embeddings.embed_documents(TEXTS), embeddings.embed_query("the gpu")]
        reason = embeddings.backend_reason
    assert elsewhere(EMBEDS, **given) == (wanted, reason, [])


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_scores_of_a_later_process_are_the_same(tiny_reranker: Tiny, name: str) -> None:
    given: dict[str, Any] = {"model": tiny_reranker(name), "dtype": "float32", "on_long": "window"}
    with GPURerank(device="cpu", backend="openvino", **given) as reranker:
        wanted = reranker.score(PAIRS).tolist()
    assert elsewhere(RERANKS, **given) == (wanted, "", [])


def test_prompts_are_kept_and_other_options_are_another_model(tiny: Tiny) -> None:
    options = {"prompts": {"query": "the fast gpu: "}, "default_prompt_name": "query"}
    vectors = []
    for chosen in (options, {}, options):
        with GPUEmbeddings(
            model=tiny("bert"), device="cpu", dtype="float32", model_kwargs=dict(chosen)
        ) as embeddings:
            vectors.append(embeddings.embed_query("one"))
    assert vectors[0] == vectors[2] != vectors[1]


@pytest.mark.parametrize("name", ["bert", "bert-left-cut", "roberta-cls", "qwen3-last-token"])
def test_text_tokenizers_come_back_as_they_were(tiny: Tiny, tmp_path: Path, name: str) -> None:
    before = ModelSettings(
        EMBED.tokenizer(EMBED.load(Path(tiny(name)), {})),  # type: ignore[arg-type]
        inputs=("attention_mask", "input_ids"),
        prompts={"query": "naïve: "},
        default_prompt_name=None,
    )
    before.save(tmp_path)
    after = ModelSettings.read(tmp_path)
    for options in (EmbedOptions(), EmbedOptions(prompt="a gpu "), EmbedOptions(on_long="mean")):
        _assert_alike(before.features(TEXTS, options), after.features(TEXTS, options))
    assert after.tokenizer.count(TEXTS) == before.tokenizer.count(TEXTS)
    assert (after.prompts, after.default_prompt_name) == (before.prompts, None)
    assert after.inputs == before.inputs


@pytest.mark.parametrize("name", ["bert", "roberta", "qwen3"])
def test_pair_tokenizers_come_back_as_they_were(
    tiny_reranker: Tiny, tmp_path: Path, name: str
) -> None:
    tokenizer = SCORE.tokenizer(SCORE.load(Path(tiny_reranker(name)), {}))
    assert tokenizer is not None
    names = tuple(tokenizer.batch(tokenizer.tokenize(PAIRS, ScoreOptions()), np.arange(1)))
    before = ModelSettings(tokenizer, names, {}, None, instructed=True, activation="torch.nn.a.B")
    before.save(tmp_path)
    after = ModelSettings.read(tmp_path)
    for options in (ScoreOptions(), ScoreOptions(on_long="window")):
        _assert_alike(before.features(PAIRS, options), after.features(PAIRS, options))
    assert (after.instructed, after.activation) == (True, "torch.nn.a.B")


@pytest.mark.parametrize("function", [torch.nn.Sigmoid(), torch.nn.Identity(), torch.nn.Tanh()])
def test_an_activation_is_found_again_by_its_name(function: torch.nn.Module) -> None:
    logits = np.array([[-90.0], [-1.5], [0.0], [3.0], [90.0]], np.float32)
    found = activate(name_of(function), logits)
    assert found.dtype == np.float32
    assert np.allclose(found, function(torch.from_numpy(logits)).numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [torch.nn.LeakyReLU(0.5), torch.nn.Hardtanh(0, 2), len])
def test_one_that_a_name_does_not_tell_is_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="scores go through"):
        name_of(function)


def test_a_reranker_with_such_an_activation_runs_on_torch(tiny_reranker: Tiny) -> None:
    given: dict[str, Any] = {
        "model": tiny_reranker("bert"),
        "device": "cpu",
        "dtype": "float32",
        "on_long": "window",
        "model_kwargs": {"activation_fn": torch.nn.LeakyReLU(0.5)},
    }
    with pytest.raises(NotConvertibleError, match="scores go through LeakyReLU"):
        GPURerank(backend="openvino", **given).score(PAIRS)
    with GPURerank(**given) as reranker, GPURerank(**given, activation="identity") as plain:
        logits = plain.score(PAIRS)
        assert np.allclose(reranker.score(PAIRS), np.where(logits < 0, logits / 2, logits))
        assert reranker.backend_reason.startswith("torch: openvino does not take the model")


def _assert_alike(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert list(before) == list(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)
