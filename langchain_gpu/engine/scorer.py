"""Scores for pairs of a query and a document, by a local model or by a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import numpy as np

from langchain_gpu.engine.backends import require_triton
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.tasks.activations import Scores, sigmoid
from langchain_gpu.engine.tasks.score import Pair, ScoreOptions
from langchain_gpu.events import Listener
from langchain_gpu.hardware.devices import Device
from langchain_gpu.utils.extras import require

if TYPE_CHECKING:
    from langchain_gpu.engine.remote.reranker import Reranker

Activation = Literal["sigmoid", "identity"]
T = TypeVar("T")
SourceT = TypeVar("SourceT")
# Pairs of a call up to which it is merged with others that wait.
_SMALL = 128


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores and how they came about.

    Attributes:
        scores: Higher is more relevant. Shape (pairs,).
        truncated: Positions of the pairs that were cut to what the model reads.
    """

    scores: Scores
    truncated: tuple[int, ...] = ()


class Scorer(Protocol):
    """What scores pairs."""

    @property
    def devices(self) -> list[Device]:
        """Where it runs."""

    @property
    def reason(self) -> str:
        """Which library runs it, and why."""

    @property
    def window(self) -> int | None:
        """Tokens of a pair that are read at most, None where nobody says."""

    def start(
        self, pairs: Sequence[Pair], options: ScoreOptions, activation: Activation | None
    ) -> Future[Scored]:
        """Begin, and return at once."""

    def score(
        self, pairs: Sequence[Pair], options: ScoreOptions, activation: Activation | None
    ) -> Scored:
        """Score pairs.

        Args:
            pairs: Queries and documents.
            options: How they are read.
            activation: What is done to the logits; None for what the model's authors want.

        Raises:
            TypeError: A pair is not two texts.
            ValueError: A pair cannot be tokenized, or the model takes no instruction.
        """

    def close(self) -> None:
        """Free its memory."""


def load_scorer(config: EmbedderConfig, on_event: Listener | None = None) -> Scorer:
    """Find the reranker and load it, or reach the server that runs it. Raises as `load`."""
    config = replace(config, task="score")
    if config.backend == "triton":
        return RemoteScorer(config)
    if config.server.url is None:
        return LocalScorer(load(config, on_event))
    if config.backend != "auto":
        raise ValueError(f"backend={config.backend!r} runs here; leave it out with base_url")
    return RemoteScorer(config)


class _Derived(Future[T]):
    """What is made of another future's result. It ends with that one, and is canceled with it."""

    def __init__(self, source: Future[SourceT], make: Callable[[SourceT], T]) -> None:
        super().__init__()
        self._source: Future[SourceT] | None = source
        source.add_done_callback(partial(self._settle, make))

    def cancel(self) -> bool:
        """See `Future.cancel`."""
        source = self._source
        return source.cancel() if source is not None else super().cancel()

    def _settle(self, make: Callable[[SourceT], T], source: Future[SourceT]) -> None:
        self._source = None  # else the two would hold each other, and the rows
        if source.cancelled():
            super().cancel()
        if not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(make(source.result()))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            self.set_exception(error)


class LocalScorer:
    """A reranker on the engine."""

    def __init__(self, loaded: Embedder) -> None:
        self._loaded = loaded
        self._encoder: Any = loaded.encoder
        self._pool = ThreadPoolExecutor(1, "langchain-gpu-scorer")

    @property
    def devices(self) -> list[Device]:
        """See `Scorer.devices`."""
        return self._loaded.engine.devices

    @property
    def reason(self) -> str:
        """See `Scorer.reason`."""
        return self._loaded.reason

    @property
    def window(self) -> int | None:
        """See `Scorer.window`."""
        return self._loaded.encoder.window

    def start(
        self, pairs: Sequence[Pair], options: ScoreOptions, activation: Activation | None
    ) -> Future[Scored]:
        """See `Scorer.start`. Small calls share forward passes."""
        if len(pairs) > _SMALL:
            return self._pool.submit(self.score, pairs, options, activation)
        self._check(options)
        rows = self._loaded.engine.submit(pairs, options)
        return _Derived(
            rows,
            lambda found: Scored(self._activate(found.vectors, activation), found.report.truncated),
        )

    def score(
        self, pairs: Sequence[Pair], options: ScoreOptions, activation: Activation | None
    ) -> Scored:
        """See `Scorer.score`."""
        self._check(options)
        engine = self._loaded.engine
        small = len(pairs) <= _SMALL
        rows = engine.call(pairs, options) if small else engine.run(pairs, options)
        return Scored(self._activate(rows.vectors, activation), rows.report.truncated)

    def close(self) -> None:
        """See `Scorer.close`."""
        self._pool.shutdown(wait=False)
        self._loaded.close()

    def _check(self, options: ScoreOptions) -> None:
        if options.instruction is not None and not self._encoder.instructed:
            raise ValueError(
                "instruction is for rerankers that are language models; this one takes none"
            )

    def _activate(self, logits: Vectors, activation: Activation | None) -> Scores:
        """Return scores of logits [pairs, 1]; both are float32, so that ties are real ones."""
        if activation is None:
            logits = cast(Vectors, self._encoder.activate(logits))
        scores = logits[:, 0]
        return sigmoid(scores) if activation == "sigmoid" else scores


class RemoteScorer:
    """A reranker behind a server."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._remote = _remote(config)
        self._pool = ThreadPoolExecutor(config.server.concurrency, "langchain-gpu-scorer")
        self._queries = ThreadPoolExecutor(config.server.concurrency, "langchain-gpu-query")

    @property
    def devices(self) -> list[Device]:
        """See `Scorer.devices`."""
        return [self._remote.device]

    @property
    def reason(self) -> str:
        """See `Scorer.reason`."""
        return f"rerank: {self._remote.device.reason}"

    @property
    def window(self) -> int | None:
        """See `Scorer.window`."""
        return None

    def start(
        self, pairs: Sequence[Pair], options: ScoreOptions, activation: Activation | None
    ) -> Future[Scored]:
        """See `Scorer.start`."""
        return self._pool.submit(self.score, pairs, options, activation)

    def score(
        self, pairs: Sequence[Pair], options: ScoreOptions, activation: Activation | None
    ) -> Scored:
        """See `Scorer.score`. A server takes one query at a time, and many requests."""
        refused = {
            "max_length": options.max_length,
            "instruction": options.instruction,
            "on_long='window'": options.on_long == "window",
        }
        given = [name for name, value in refused.items() if value]
        if given or options.on_long == "window":
            raise ValueError(f"a server reads pairs in its own way: leave out {', '.join(given)}")
        groups = [
            (query, [text for _, text in group])
            for query, group in groupby(pairs, key=lambda pair: pair[0])
        ]
        ask = partial(self._remote.score, on_long=options.on_long)
        run = map if len(groups) == 1 else self._queries.map
        scores = np.concatenate([np.empty(0, np.float32), *run(ask, *zip(*groups, strict=True))])
        return Scored(sigmoid(scores) if activation == "sigmoid" else scores)

    def close(self) -> None:
        """See `Scorer.close`."""
        self._pool.shutdown(wait=False)
        self._queries.shutdown(wait=False)
        self._remote.close()


def _remote(config: EmbedderConfig) -> Reranker:
    if config.backend == "triton":
        require_triton()
        from langchain_gpu.engine.remote.triton_rerank import TritonReranker

        return TritonReranker(config.model, config.server, config.options)
    require("httpx", extra="remote")
    from langchain_gpu.engine.remote.rerank import RemoteReranker

    return RemoteReranker(config.model, config.server)
