"""The settings of `GPUEmbeddings`, and how one of its calls runs on the engine."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from langchain_core.runnables.config import run_in_executor
from numpy.typing import NDArray
from pydantic import AliasChoices, Field

from langchain_gpu.encoder_models import elsewhere
from langchain_gpu.encoder_models.base import RunsModel, started
from langchain_gpu.engine.checks import NonFiniteVectorError, non_finite, progress_bar
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embed_call import EmbedCall
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.encode_kwargs import EncodeKwargs, Kind
from langchain_gpu.engine.outputs import Output, Precision
from langchain_gpu.engine.report import Report, Rows
from langchain_gpu.engine.skipping import run_skipping
from langchain_gpu.engine.tasks.embed import check_texts
from langchain_gpu.events import TruncationWarning, users_line

# Calls of up to this many texts are merged with others; larger ones fill batches by themselves.
_SMALL = 32


class RunsEmbedder(RunsModel):
    """Base of a class that embeds texts: its settings, and how one call runs."""

    model: str = Field(
        default="sentence-transformers/all-mpnet-base-v2",
        validation_alias=AliasChoices("model", "model_name"),
    )
    """A folder, a `.gguf` file, or the name of a model: on the hub, or on the server."""
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of sentence-transformers' `encode`: `prompt`, `prompt_name`, `batch_size`,
    `normalize_embeddings`, `truncate_dim`, `precision`, `show_progress_bar`."""
    query_encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    """The same for queries; empty takes `encode_kwargs`."""
    multi_process: bool = False
    """With `device="auto"`, share the work among all GPUs."""
    show_progress: bool = False
    """Show a progress bar while documents are embedded."""

    backend: Literal[
        "auto", "torch", "openvino", "onnx", "llama_cpp", "openai", "ollama", "triton"
    ] = "auto"
    """What runs the model: `"auto"` takes a server where `base_url` is given, llama.cpp for a GGUF
    file, OpenVINO on a CPU where it is installed, and else torch."""
    calibration_texts: list[str] = Field(default_factory=list, repr=False)
    """With `dtype="int8"`: texts like those that will be embedded, from which the ranges of the
    numbers are learned; without them, English prose is taken."""
    truncate_dim: int | None = Field(default=None, ge=1)
    """Leading dimensions to keep, for models trained for that (Matryoshka); shortened vectors are
    rescaled to the norm they had."""
    precision: Precision = "float32"
    """What vectors are returned as: `"float32"`, `"float16"`, or `"int8"` (every vector scaled by
    itself, for cosine similarity)."""
    on_long: Literal["truncate", "mean", "error"] = "truncate"
    """What happens to texts longer than the model's window: `"truncate"` cuts them and warns once,
    `"mean"` averages all their windows, `"error"` raises."""
    replace_newlines: bool = False
    """Replace every newline by a space before embedding, as HuggingFaceEmbeddings always does."""

    _elsewhere: ClassVar[Mapping[str, str]] = {**elsewhere.ARGUMENTS, **elsewhere.EMBEDDING}
    _backends: ClassVar[Mapping[str, str]] = elsewhere.EMBEDDING_BACKENDS

    @property
    def model_name(self) -> str:
        """The model, under the name HuggingFaceEmbeddings gives it."""
        return self.model

    def _embed(
        self,
        texts: list[Any],
        kind: Kind,
        *,
        merge: bool = True,
        skip: bool = False,
        out: NDArray[Any] | None = None,
    ) -> tuple[NDArray[Any], Report]:
        """Return the vectors and the report.

        With `merge`, a small call goes together with others, and its report counts what they
        shared; with `skip`, texts that cannot be embedded are not errors and have rows of NaN.
        """
        call, texts = self._call(kind), self._read(texts)
        shown = self.show_progress or bool(call.kwargs.show_progress_bar)
        most = call.kwargs.batch_size
        with self._use() as embedder:
            engine, options = embedder.engine, call.options(embedder)
            if merge and not shown and out is None and most is None and len(texts) <= _SMALL:
                rows = engine.call(texts, options)
            else:
                skipping = partial(run_skipping, engine, embedder.encoder)
                run = skipping if skip else partial(engine.run, out=out)
                with progress_bar(len(texts), shown=shown) as bar:
                    rows = run(texts, options, max_items=most, progress=bar)
            return self._finish(rows, call, embedder, check=not skip), rows.report

    async def _aembed(self, texts: list[Any], kind: Kind) -> NDArray[Any]:
        call = self._call(kind)
        if len(texts) > _SMALL or call.kwargs.batch_size is not None or self.show_progress:
            whole = partial(self._embed, texts, kind)
            return (await run_in_executor(None, whole))[0]
        texts = self._read(texts)

        def start(embedder: Embedder) -> Future[Rows]:
            return embedder.engine.submit(texts, call.options(embedder))

        # In use once more for the work that goes on after this task was canceled.
        async with self._ahold(self._make) as held:
            with started(held.again(), start) as (embedder, future):
                rows = await asyncio.wrap_future(future)
                return self._finish(rows, call, embedder, check=True)

    def _call(self, kind: Kind) -> EmbedCall:
        kwargs = EncodeKwargs.of(
            (self.query_encode_kwargs if kind == "query" else {}) or self.encode_kwargs
        )
        if (default := self.model_kwargs.get("default_prompt_name")) is not None:
            kwargs = kwargs.with_default_prompt(default)
        output = self._output()
        if kwargs.precision != "float32" and output.precision != "float32":
            raise ValueError("precision and encode_kwargs['precision'] are both given; use one")
        return EmbedCall(kind, kwargs, output, self.on_long)

    def _output(self) -> Output:
        return Output(self.truncate_dim, self.precision)

    def _read(self, texts: list[Any]) -> list[str]:
        check_texts(texts)
        return [text.replace("\n", " ") for text in texts] if self.replace_newlines else texts

    def _finish(
        self, rows: Rows, call: EmbedCall, embedder: Embedder, *, check: bool
    ) -> NDArray[Any]:
        if check and (broken := non_finite(rows.vectors)):
            raise NonFiniteVectorError(
                f"the model returned NaN or infinity for text {broken[0]} ({len(broken)} such texts"
                f" here, computed in {embedder.encoder.dtype}); try dtype='float32'"
            )
        if rows.report.truncated:
            self._warn_of_truncation(len(rows.report.truncated), len(rows.vectors), embedder)
        return rows.vectors if call.plain else call.finish(rows.vectors)

    def _use(self) -> AbstractContextManager[Embedder]:
        return self._hold(self._make)

    def _load(self) -> Embedder:
        with self._use() as embedder:
            return embedder

    def _make(self, config: EmbedderConfig) -> Embedder:
        return load(config, self.on_event)

    def _config(self) -> EmbedderConfig:
        config = replace(super()._config(), calibration=tuple(self.calibration_texts))
        share = self.multi_process and config.device == "auto"
        return replace(config, device="all") if share else config

    def _warn_of_truncation(self, count: int, total: int, embedder: Embedder) -> None:
        if self._loaded.warned_of_truncation:
            return
        self._loaded.warned_of_truncation = True
        warnings.warn(
            f"{count} of {total} texts are longer than the {embedder.encoder.window} tokens "
            f"{self.model} reads, and were cut (shown once). on_long='mean' embeds all of a text, "
            f"on_long='error' refuses it; embed_with_report lists which.",
            TruncationWarning,
            stacklevel=users_line(),
        )


__all__ = ["RunsEmbedder"]
