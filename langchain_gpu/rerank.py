"""`GPURerank`: retrieved documents in a better order, on your own hardware."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from numpy.typing import NDArray
from pydantic import AliasChoices, Field

from langchain_gpu.encoder_models import elsewhere
from langchain_gpu.encoder_models.base import RunsModel, started
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.scorer import Activation, Scored, Scorer, load_scorer
from langchain_gpu.engine.tasks.score import ScoreOptions, check_pairs
from langchain_gpu.events import TruncationWarning, users_line
from langchain_gpu.hardware.devices import Device
from langchain_gpu.utils.integers import at_least_one


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's place among the others.

    Attributes:
        index: Where it was in the list that was given.
        score: How relevant it is; higher is more.
    """

    index: int
    score: float


class GPURerank(RunsModel, BaseDocumentCompressor):
    """Rank documents by how well they answer a query, on the GPU or on the CPU if there is none.

    A drop-in where a document compressor is expected, for `NVIDIARerank` and `CrossEncoderReranker`
    among others. It runs on the same engine as `GPUEmbeddings`: pairs of all queries are sorted by
    length and batched by tokens, and when GPU memory runs out, the batch shrinks.

    Setup:
        `pip install "langchain-gpu[local]"`

    Key arguments (docs/settings.md has all):
        model: Folder, or name on the hub: a cross-encoder, or a language model that answers yes or
            no (Qwen3-Reranker); which one, its own configuration says.
        top_n: Documents to keep; None keeps all.
        score_threshold: Documents with a lower score are left out.
        on_long: What happens to pairs beyond the model's window: `"truncate"` (warned about once),
            `"window"` (the best of overlapping windows of the document) or `"error"`.
        base_url: A server with a `/rerank` route (vLLM, TEI, infinity, llama-server), instead of a
            model here; with `backend="triton"` a Triton Inference Server.

    Instantiate and use:
        ```python
        from langchain_core.documents import Document
        from langchain_gpu import GPURerank

        reranker = GPURerank(model="cross-encoder/ms-marco-MiniLM-L6-v2", top_n=2)
        documents = [Document("Lunch is at noon."), Document("The office opens at nine.")]
        best = reranker.compress_documents(documents, "When does the office open?")
        best[0].metadata["relevance_score"]  # a float
        reranker.rerank(
            "When is lunch?", ["at noon", "in May"]
        )  # [Ranked(index=0, score=...), ...]
        ```

    Async:
        ```python
        best = await reranker.acompress_documents(documents, "When does the office open?")
        ```

    In a chain:
        ```python
        chain = create_rag_chain(store.as_retriever(k=50), chat, reranker=reranker)
        ```

    Constructing it loads nothing; the first use does. It is safe to use from several threads.
    """

    _role: ClassVar[str] = "reranker"
    _elsewhere: ClassVar[Mapping[str, str]] = {**elsewhere.ARGUMENTS, **elsewhere.RERANKING}
    _backends: ClassVar[Mapping[str, str]] = elsewhere.RERANKING_BACKENDS

    model: str = Field(
        default="cross-encoder/ms-marco-MiniLM-L6-v2",
        validation_alias=AliasChoices("model", "model_name"),
    )
    """A folder, a `.gguf` file, or the name of a model: on the hub, or on the server."""
    top_n: int | None = Field(default=3, ge=1)
    """Documents to keep; None keeps all."""
    score_threshold: float | None = None
    """Documents with a lower score are left out; what a score means depends on the model."""
    activation: Activation | None = None
    """What is done to the model's logits, or to the scores of a server: `"sigmoid"`, `"identity"`,
    or None for what the model's authors, or the server's, want. It changes no order."""
    max_length: int | None = Field(default=None, ge=4)
    """Tokens of a pair that are read at most; None for all the model reads."""
    on_long: Literal["truncate", "window", "error"] = "truncate"
    """What happens to longer pairs: `"truncate"` cuts them and warns once, `"window"` takes
    the best of overlapping windows of it, `"error"` raises."""
    instruction: str | None = None
    """For rerankers that are language models: what makes a document relevant."""
    backend: Literal["auto", "torch", "openvino", "onnx", "llama_cpp", "triton"] = "auto"
    """What runs the model: `"auto"` takes llama.cpp for a `.gguf` file, OpenVINO on a CPU where it
    is installed, and else torch. `"triton"` is a Triton Inference Server at `base_url`."""

    @property
    def devices(self) -> list[Device]:
        """Where the model runs, each with the reason. Loads the model."""
        with self._use() as scorer:
            return scorer.devices

    @property
    def backend_reason(self) -> str:
        """Which library runs the model, and why. Loads the model."""
        with self._use() as scorer:
            return scorer.reason

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002 - the interface; nothing is called back
    ) -> list[Document]:
        """Return the best documents as copies, best first; the caller's stay untouched.

        Each copy has `metadata["relevance_score"]`, a float. Documents of equal score keep their
        order.

        Raises:
            TypeError: The query or a document is not a string; the message has its position.
            ValueError: A text cannot be tokenized; the same.
        """
        ranking = self._ranking(query, _texts(documents), self.top_n)
        return [_scored(documents[place.index], place.score) for place in ranking]

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002 - see compress_documents
    ) -> list[Document]:
        """Do what `compress_documents` does; calls of many tasks share forward passes."""
        pairs = [(query, text) for text in _texts(documents)]
        ranking = self._rank((await self._ascore(pairs)).scores, self.top_n)
        return [_scored(documents[place.index], place.score) for place in ranking]

    def rerank(
        self, query: str, documents: Sequence[str | Document], top_n: int | None = None
    ) -> list[Ranked]:
        """Return places and scores of the best documents, best first.

        Args:
            query: What is asked.
            documents: Texts, or documents.
            top_n: How many; None for all, whatever the field `top_n` says. `score_threshold`
                counts too.

        Raises:
            TypeError: The query or a document is not a string; the message has its position.
            ValueError: top_n is smaller than 1, or a text cannot be tokenized.
        """
        _check_top_n(top_n)
        return self._ranking(query, _texts(documents), top_n)

    async def arerank(
        self, query: str, documents: Sequence[str | Document], top_n: int | None = None
    ) -> list[Ranked]:
        """Do what `rerank` does; calls of many tasks share forward passes."""
        _check_top_n(top_n)
        pairs = [(query, text) for text in _texts(documents)]
        return self._rank((await self._ascore(pairs)).scores, top_n)

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Score pairs of a query and a document. Shape (pairs,), float32, higher is better."""
        return self._score(list(pairs)).scores

    async def ascore(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Do what `score` does; calls of many tasks share forward passes."""
        return (await self._ascore(list(pairs))).scores

    def score_batch(
        self, queries: Sequence[str], documents: Sequence[Sequence[str | Document]]
    ) -> list[NDArray[np.float32]]:
        """Score a list of documents for each of many queries, all in one pass.

        Returns:
            One array per query, in the order of its documents.

        Raises:
            ValueError: There are not as many lists as queries.
        """
        if len(queries) != len(documents):
            raise ValueError(
                f"{len(queries)} queries came with {len(documents)} lists of documents"
            )
        lists = [_texts(each) for each in documents]
        pairs = [
            (query, text) for query, texts in zip(queries, lists, strict=True) for text in texts
        ]
        scores = self._score(pairs).scores
        ends = np.cumsum([0, *map(len, lists)])
        return [scores[start:stop] for start, stop in pairwise(ends)]

    def as_cross_encoder(self) -> BaseCrossEncoder:
        """Return this model as what LangChain's `CrossEncoderReranker` takes."""
        return _CrossEncoder(self)

    def _ranking(self, query: str, texts: list[str], top_n: int | None) -> list[Ranked]:
        return self._rank(self._score([(query, text) for text in texts]).scores, top_n)

    def _rank(self, scores: NDArray[np.float32], top_n: int | None) -> list[Ranked]:
        order = np.argsort(-scores, kind="stable")
        if self.score_threshold is not None:
            order = order[scores[order] >= self.score_threshold]
        return [Ranked(int(index), float(scores[index])) for index in order[:top_n]]

    def _score(self, pairs: list[Any]) -> Scored:
        check_pairs(pairs)
        if not pairs:
            return Scored(np.empty(0, np.float32))
        with self._use() as scorer:
            scored = scorer.score(pairs, self._options(), self.activation)
            return self._checked(scored, scorer)

    async def _ascore(self, pairs: list[Any]) -> Scored:
        check_pairs(pairs)
        if not pairs:
            return Scored(np.empty(0, np.float32))

        def start(scorer: Scorer) -> Future[Scored]:
            return scorer.start(pairs, self._options(), self.activation)

        # Held again for what goes on when this task was canceled.
        async with self._ahold(self._make) as held:
            with started(held.again(), start) as (scorer, future):
                return self._checked(await asyncio.wrap_future(future), scorer)

    def _options(self) -> ScoreOptions:
        return ScoreOptions(self.max_length, self.on_long, self.instruction)

    def _checked(self, scored: Scored, scorer: Scorer) -> Scored:
        broken = np.flatnonzero(~np.isfinite(scored.scores))
        if len(broken):
            raise ValueError(
                f"the model returned NaN or infinity for pair {broken[0]} ({len(broken)} such pairs"
                f" here); try dtype='float32'"
            )
        if scored.truncated and not self._loaded.warned_of_truncation:
            self._loaded.warned_of_truncation = True
            warnings.warn(
                f"{len(scored.truncated)} of {len(scored.scores)} pairs are longer than the "
                f"{self.max_length or scorer.window} tokens that are read, and were cut (shown "
                f"once). on_long='window' scores all of a document, on_long='error' refuses it.",
                TruncationWarning,
                stacklevel=users_line(),
            )
        return scored

    def _use(self) -> AbstractContextManager[Scorer]:
        return self._hold(self._make)

    def _make(self, config: EmbedderConfig) -> Scorer:
        return load_scorer(config, self.on_event)


class _CrossEncoder(BaseCrossEncoder):
    """The model behind a `GPURerank`, in LangChain's interface."""

    def __init__(self, reranker: GPURerank) -> None:
        self._reranker = reranker

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Score pairs of a query and a document."""
        scores: list[float] = self._reranker.score(text_pairs).tolist()
        return scores


def _texts(documents: Sequence[Any]) -> list[str]:
    """Take texts and documents; anything else is refused later, by its position."""
    if isinstance(documents, str | Document):
        raise TypeError(
            f"documents is a single {type(documents).__name__}; pass a list: [document]"
        )
    return [each.page_content if isinstance(each, Document) else each for each in documents]


def _check_top_n(top_n: int | None) -> None:
    if top_n is not None:
        at_least_one("top_n", top_n)


def _scored(document: Document, score: float) -> Document:
    metadata = {**document.metadata, "relevance_score": score}
    return document.model_copy(update={"metadata": metadata})
