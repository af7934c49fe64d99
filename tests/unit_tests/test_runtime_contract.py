"""One contract, kept by everything here that runs an embedder: all of it on real weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.encoder import Encoder, Tokenized, Vectors
from langchain_gpu.engine.tasks.embed import EmbedOptions, TextTooLongError
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.conftest import MINILM
from tests.unit_tests.gguf_bert import write_gguf
from tests.unit_tests.planned_batches import plan_batches

pytestmark = pytest.mark.models

LONG = "The memory of the card is full, and the batch is cut in two. " * 20
TEXTS = [
    "",
    " ",
    "GPU",
    "a\nb\tc",
    "a nul \x00 inside",
    "naïve café 漢字 🙂",
    "[SEP] is a token, and so is [CLS].",
    "The cat sat on the mat.",
    "How do I free the memory of my GPU?",
    "One sentence. Another sentence, which is a little longer than the first one was.",
    LONG,
    *(f"{word} and {'more words ' * number}" for number, word in enumerate("abcdefgh")),
]


@dataclass(frozen=True)
class Runtime:
    """A way to run the model.

    Attributes:
        backend: Its name in the registry.
        dtype: What is computed in.
        options: For the back end.
        least: Cosine to sentence-transformers' own vectors that every row must reach.
    """

    backend: str
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    least: float = 0.9999

    def config(self, model: str) -> EmbedderConfig:
        return EmbedderConfig(
            model=model,
            device="cpu",
            backend=self.backend,
            dtype=self.dtype,
            options=self.options,
            fallback="error",
        )


RUNTIMES = {
    "torch": Runtime("torch"),
    "torch-packed": Runtime("torch", options={"attention": "packed"}),
    "openvino": Runtime("openvino"),
    "onnx": Runtime("onnx"),
    # Activations share one scale in a batch, so a row depends on its neighbors.
    "onnx-int8": Runtime("onnx", dtype="int8", least=0.95),
    # One thread: llama.cpp's threads spin, which on a busy machine takes minutes.
    "llama_cpp": Runtime("llama_cpp", dtype="auto", options={"n_ctx": 256, "n_threads": 1}),
}


@pytest.fixture(scope="module")
def peer() -> SentenceTransformer:
    return SentenceTransformer(str(resolve(MINILM).path), device="cpu")


@pytest.fixture(scope="module")
def theirs(peer: SentenceTransformer) -> Vectors:
    return np.stack([peer.encode([text])[0] for text in TEXTS])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Runtime], str]:
    def path(runtime: Runtime) -> str:
        if runtime.backend != "llama_cpp":
            return MINILM
        file: Path = tmp_path_factory.getbasetemp() / "minilm.gguf"
        return str(file if file.is_file() else write_gguf(resolve(MINILM).path, file))

    return path


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return RUNTIMES[request.param]


@pytest.fixture(scope="module")
def embedder(runtime: Runtime, model: Callable[[Runtime], str]) -> Iterator[Embedder]:
    loaded = load(runtime.config(model(runtime)))
    yield loaded
    loaded.close()


def cosines(left: Vectors, right: Vectors) -> Vectors:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    result: Vectors = (left * right).sum(axis=1) / norms
    return result


def embed(embedder: Embedder, texts: Sequence[str], **options: Any) -> Vectors:
    return embedder.engine.run(texts, EmbedOptions(**options)).vectors


def compute(encoder: Encoder, tokens: Tokenized, budget: int = 512) -> Vectors:
    """As the engine does it, for tokens that are no texts."""
    vectors = np.empty((len(tokens.lengths), encoder.dimension), np.float32)
    for batch in plan_batches(tokens.lengths, max_tokens=budget, rules=encoder.rules):
        vectors[batch.rows] = encoder.forward(encoder.prepare(tokens, batch.rows))()
    return vectors


def test_the_same_rows(embedder: Embedder, runtime: Runtime, theirs: Vectors) -> None:
    ours = embed(embedder, TEXTS)
    assert ours.dtype == np.float32
    assert cosines(ours, theirs).min() >= runtime.least
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-4)


def test_any_order_of_the_texts(embedder: Embedder, runtime: Runtime, theirs: Vectors) -> None:
    order = np.random.default_rng(3).permutation(len(TEXTS))
    rows = embedder.engine.run([TEXTS[row] for row in order], EmbedOptions(), max_items=3)
    assert cosines(rows.vectors, theirs[order]).min() >= runtime.least
    assert sum(rows.report.batches.values()) >= len(TEXTS) / 3


def test_a_text_alone_and_in_a_batch(embedder: Embedder, runtime: Runtime) -> None:
    together = embed(embedder, TEXTS)
    for row in (0, 5, 9):
        alone = embed(embedder, [TEXTS[row]])
        assert cosines(alone, together[row : row + 1]).min() >= runtime.least


def test_a_long_text_is_cut_and_reported(
    embedder: Embedder, runtime: Runtime, theirs: Vectors
) -> None:
    rows = embedder.engine.run(["short", LONG, "short"], EmbedOptions(on_long="truncate"))
    assert rows.report.truncated == (1,)
    assert cosines(rows.vectors[1:2], theirs[[TEXTS.index(LONG)]]).min() >= runtime.least


def test_a_long_text_as_the_mean_of_its_windows(
    embedder: Embedder, runtime: Runtime, peer: SentenceTransformer
) -> None:
    ids = peer.tokenizer(LONG, add_special_tokens=False, truncation=False, verbose=False)
    room = 254
    pieces = [ids["input_ids"][at : at + room] for at in range(0, len(ids["input_ids"]), room)]
    assert len(pieces) > 1
    windows = np.stack([peer.encode([peer.tokenizer.decode(piece)])[0] for piece in pieces])
    mean = np.average(windows, axis=0, weights=[len(piece) + 2 for piece in pieces])
    rows = embedder.engine.run(["short", LONG], EmbedOptions(on_long="mean"))
    assert cosines(rows.vectors[1:], mean[None]).min() >= runtime.least
    assert np.allclose(np.linalg.norm(rows.vectors, axis=1), 1, atol=1e-4)
    assert rows.report.truncated == ()


def test_a_long_text_is_refused_by_its_position(embedder: Embedder) -> None:
    with pytest.raises(TextTooLongError, match="text 2 is longer than the model's window of 256"):
        embed(embedder, ["short", "short", LONG], on_long="error")


def test_token_ids_are_as_good_as_texts(
    embedder: Embedder, runtime: Runtime, peer: SentenceTransformer, theirs: Vectors
) -> None:
    ids = peer.tokenizer(TEXTS, truncation=True, max_length=256)["input_ids"]
    ours = compute(embedder.encoder, embedder.encoder.from_ids(ids))
    assert cosines(ours, theirs).min() >= runtime.least


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ([], "token row 6 is empty"),
        ([101] * 257, "token row 6 has 257 ids, and the model's window 256"),
        ([101, -1, 102], "token row 6 holds an id outside the vocabulary of 30522"),
        ([101, 30522, 102], "token row 6 holds an id outside the vocabulary of 30522"),
    ],
)
def test_token_ids_that_cannot_be(embedder: Embedder, bad: list[int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        embedder.encoder.from_ids([[101, 102], bad], start=5)


def test_a_prompt_stands_before_the_text(
    embedder: Embedder, runtime: Runtime, peer: SentenceTransformer
) -> None:
    wanted = peer.encode(["query: what is a GPU?"])
    ours = embed(embedder, ["what is a GPU?"], prompt="query: ")
    assert cosines(ours, wanted).min() >= runtime.least


def test_what_cannot_be_a_text_is_named(embedder: Embedder) -> None:
    wrong: list[Any] = ["a", 7]
    with pytest.raises(TypeError, match="text 1 is int, not str"):
        embedder.engine.run(wrong, EmbedOptions())
    with pytest.raises(ValueError, match="text 1 holds a lone surrogate at character 2"):
        embed(embedder, ["a", "b \ud800"])


def test_what_it_says_of_itself(embedder: Embedder, peer: SentenceTransformer) -> None:
    encoder = embedder.encoder
    assert encoder.dimension == embedder.engine.dimension == peer.get_embedding_dimension()
    assert encoder.window == peer.max_seq_length
    assert dict(encoder.prompts) in ({}, dict(peer.prompts))
    assert encoder.default_prompt_name is None
    wanted = [len(ids) for ids in peer.tokenizer(TEXTS, verbose=False)["input_ids"]]
    assert encoder.count_tokens(TEXTS) == wanted
    assert str(encoder.device) == "cpu"
    assert encoder.device.reason
    assert encoder.dtype


def test_its_rules_can_be_planned_with(embedder: Embedder) -> None:
    rules, window = embedder.encoder.rules, embedder.encoder.window
    assert window is not None
    assert rules.in_flight >= 1
    assert rules.max_items is None or rules.max_items >= 1
    assert rules.width(window) == window, "no row may be wider than the model's positions"
    assert rules.cost(np.array([3, 2])) >= 5


def test_a_closed_one_computes_nothing(runtime: Runtime, model: Callable[[Runtime], str]) -> None:
    closing = load(runtime.config(model(runtime)))
    tokens = closing.encoder.from_ids([[101, 102]])
    features = closing.encoder.prepare(tokens, np.arange(1))
    closing.close()
    closing.close()
    with pytest.raises(Exception, match=r"closed|None"):
        closing.encoder.forward(features)()
