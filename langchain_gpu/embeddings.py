"""`GPUEmbeddings`: LangChain embeddings that fill the device they run on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from threading import Lock
from typing import Any, Literal, Self

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr

from langchain_gpu._extras import require
from langchain_gpu.engine.config import EmbedderConfig
from langchain_gpu.engine.embedder import Embedder, load
from langchain_gpu.engine.encode_kwargs import EncodeKwargs, Kind
from langchain_gpu.engine.engine import Progress
from langchain_gpu.engine.report import Report, Rows, Skipped
from langchain_gpu.engine.tasks.embed import EmbedOptions, check_texts, surrogate_problem
from langchain_gpu.events import Listener, TruncationWarning
from langchain_gpu.hardware.devices import Device

# Arguments of SentenceTransformer that say where a model's files are.
_WHERE = ("revision", "token", "local_files_only")


class NonFiniteVectorError(ValueError):
    """The model returned NaN or infinity for a text."""


class _Loaded:
    """The model once it is loaded. A copy or an unpickled object loads its own."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.config: EmbedderConfig | None = None
        self.embedder: Embedder | None = None
        self.warned_of_truncation = False

    def __reduce__(self) -> tuple[type[_Loaded], tuple[()]]:
        return _Loaded, ()


class GPUEmbeddings(BaseModel, Embeddings):
    """Embed texts on the GPU, or on the CPU where there is none, with a word on which and why.

    A drop-in for `HuggingFaceEmbeddings`: the same names, the same default model, the same vectors.
    Texts are sorted by length and batched by tokens; running out of GPU memory shrinks the batch
    instead of ending the work.

    Setup:
        `pip install "langchain-gpu[local]"`

    Key arguments:
        model: Folder, name of an installed model package, or name on the hub (alias `model_name`).
        device: `"auto"`, `"cuda"`, `"cuda:1"`, `"rocm"`, `"xpu"`, `"mps"`, `"cpu"`, or a list of
            them to share the work.
        dtype: What is computed in: `"auto"` takes what is fast and safe on the device.
        on_long: What happens to texts beyond the model's window: `"truncate"` (counted, and warned
            about once), `"mean"` (all windows, averaged) or `"error"`.
        fallback: `"cpu"` goes on there, with a warning, when a device is missing or too small;
            `"error"` raises.

    Instantiate and use:
        ```python
        from langchain_gpu import GPUEmbeddings

        embeddings = GPUEmbeddings(model="sentence-transformers/all-MiniLM-L6-v2")
        vector = embeddings.embed_query("What is a token budget?")  # list of 384 floats
        vectors = embeddings.embed_documents(["one text", "another"])
        rows = embeddings.embed_with_report(["one text", "another"])
        rows.vectors.shape, rows.report.padding  # ((2, 384), 1.0)
        ```

    Async:
        ```python
        vectors = await embeddings.aembed_documents(["one text", "another"])
        ```

    Constructing it loads nothing; the first use does. It is safe to use from several threads.
    """

    model: str = Field(
        default="sentence-transformers/all-mpnet-base-v2",
        validation_alias=AliasChoices("model", "model_name"),
    )
    """Folder or name of the model."""
    cache_folder: str | None = None
    """Hub cache to use; SENTENCE_TRANSFORMERS_HOME does the same."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `SentenceTransformer`: `device`, `prompts`, `revision`, `token`,
    `trust_remote_code` (only with a full commit as `revision`), `model_kwargs` and so on."""
    encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of its `encode`: `prompt`, `prompt_name`, `batch_size`, `normalize_embeddings`,
    `truncate_dim`, `precision`, `show_progress_bar`."""
    query_encode_kwargs: dict[str, Any] = Field(default_factory=dict)
    """The same for queries; empty means `encode_kwargs`."""
    multi_process: bool = False
    """With `device="auto"`, share the work among all GPUs."""
    show_progress: bool = False
    """Show a progress bar."""

    device: str | list[str] = "auto"
    """Where to run."""
    backend: Literal["auto", "torch", "openvino"] = "auto"
    """Which library runs the model: `"auto"` takes OpenVINO on a CPU where it is installed."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What is computed in; vectors are returned in float32."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per forward pass, padding included; None takes a default for the device."""
    on_long: Literal["truncate", "mean", "error"] = "truncate"
    """What happens to texts beyond the model's window."""
    fallback: Literal["cpu", "error"] = "cpu"
    """What happens when a device is missing or too small."""
    replace_newlines: bool = False
    """Put a space for every newline before embedding, as HuggingFaceEmbeddings always does."""
    on_event: Listener | None = Field(default=None, exclude=True)
    """Called for batches, fallbacks and budget changes; see `langchain_gpu.events`."""

    _loaded: _Loaded = PrivateAttr(default_factory=_Loaded)

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    @property
    def model_name(self) -> str:
        """The model, under the name HuggingFaceEmbeddings gives it."""
        return self.model

    @property
    def devices(self) -> list[Device]:
        """Where the model runs, each with the reason. Loads the model."""
        return self._load().engine.devices

    @property
    def dimension(self) -> int:
        """Width of a vector. Loads the model."""
        return self._load().engine.dimension

    @property
    def window(self) -> int | None:
        """Tokens a text may have, special tokens included. Loads the model."""
        return self._load().encoder.window

    @property
    def computed_in(self) -> str:
        """The dtype that `dtype="auto"` came to. Loads the model."""
        return self._load().encoder.dtype

    @property
    def backend_reason(self) -> str:
        """Which library runs the model, and why. Loads the model."""
        return self._load().reason

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, as documents. Returns one list of `dimension` floats per text.

        Raises:
            TypeError: An item is not a string; the message has its position.
            ValueError: A text cannot be embedded; the same.
        """
        documents = _as_list(texts)
        if not documents:
            return []
        vectors: list[list[float]] = self._embed(documents, "document")[0].tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Embed one text, as a query. Returns `dimension` floats. Raises as `embed_documents`."""
        vector: list[float] = self._embed([text], "query")[0][0].tolist()
        return vector

    def embed_to_array(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, as documents, into one array of shape (len(texts), dimension).

        A list of floats takes eight times the memory and most of the time; what can take an array
        should. Raises as `embed_documents`.
        """
        return self._embed(_as_list(texts), "document")[0]

    def embed_queries_to_array(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed many texts at once, as queries, into one array of shape (len(texts), dimension)."""
        return self._embed(_as_list(texts), "query")[0]

    def embed_with_report(
        self, texts: Sequence[str], *, on_error: Literal["raise", "skip"] = "raise"
    ) -> Rows:
        """Embed texts, as documents, and say what it took.

        Args:
            texts: What to embed.
            on_error: `"skip"` lists items that cannot be embedded in the report and gives them a
                row of NaN; `"raise"` raises as `embed_documents`.
        """
        items = _as_list(texts)
        if on_error == "raise":
            return Rows(*self._embed(items, "document"))
        if (precision := EncodeKwargs.of(self.encode_kwargs).precision) != "float32":
            raise ValueError(f"on_error='skip' marks rows with NaN, which {precision} cannot hold")
        skipped = [
            Skipped(index, problem)
            for index, item in enumerate(items)
            if (problem := _problem(item)) is not None
        ]
        bad = {each.index for each in skipped}
        good = [index for index in range(len(items)) if index not in bad]
        part, report = self._embed([items[index] for index in good], "document", check=False)
        vectors = np.full((len(items), part.shape[1]), np.nan, part.dtype)
        vectors[good] = part
        skipped += [
            Skipped(good[row], "the model returned NaN or infinity") for row in _non_finite(part)
        ]
        truncated = tuple(good[row] for row in report.truncated)
        skipped.sort(key=lambda each: each.index)
        return Rows(
            vectors,
            replace(report, items=len(items), truncated=truncated, skipped=tuple(skipped)),
        )

    def stream(
        self,
        texts: Iterable[str],
        *,
        chunk: int = 8192,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Rows]:
        """Embed an iterable of any length, as documents, in bounded memory.

        Args:
            texts: Read lazily, `chunk` texts at a time.
            chunk: Texts per result.
            on_error: As in `embed_with_report`. Positions count from the start of the chunk.

        Yields:
            Rows in the order of the texts, each with a report of its own.
        """
        if chunk < 1:
            raise ValueError(f"chunk must be >= 1, got {chunk}")
        iterator, start = iter(texts), 0
        while group := list(islice(iterator, chunk)):
            try:
                yield self.embed_with_report(group, on_error=on_error)
            except (TypeError, ValueError) as error:
                error.add_note(f"in the chunk that starts at text {start} of the stream")
                raise
            start += len(group)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        return self._load().encoder.count_tokens(_as_list(texts))

    def close(self) -> None:
        """Free the model's memory. The next use loads it again."""
        with self._loaded.lock:
            embedder, self._loaded.embedder = self._loaded.embedder, None
        if embedder is not None:
            embedder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _embed(
        self, texts: list[Any], kind: Kind, *, check: bool = True
    ) -> tuple[NDArray[Any], Report]:
        """Return the vectors and the report; with `check`, refuse vectors that are not finite."""
        kwargs = EncodeKwargs.of(
            (self.query_encode_kwargs if kind == "query" else {}) or self.encode_kwargs
        )
        check_texts(texts)
        if self.replace_newlines:
            texts = [text.replace("\n", " ") for text in texts]
        embedder = self._load()
        prompt = kwargs.resolve_prompt(embedder.encoder, kind)
        options = EmbedOptions(prompt=prompt, task=kind, on_long=self.on_long)
        with _bar(len(texts), shown=self.show_progress or bool(kwargs.show_progress_bar)) as bar:
            rows = embedder.engine.run(texts, options, max_items=kwargs.batch_size, progress=bar)
        if check and (broken := _non_finite(rows.vectors)):
            raise NonFiniteVectorError(
                f"the model returned NaN or infinity for text {broken[0]} ({len(broken)} such texts"
                f" here, computed in {embedder.encoder.dtype}); try dtype='float32'"
            )
        if rows.report.truncated:
            self._warn_of_truncation(len(rows.report.truncated), len(texts), embedder)
        return kwargs.finish(rows.vectors), rows.report

    def _load(self) -> Embedder:
        config = self._config()
        if self._loaded.config not in (None, config):
            # A copy with other settings, or settings changed since: another model, not that one.
            self._loaded = _Loaded()
        loaded = self._loaded
        with loaded.lock:
            if loaded.embedder is None:
                loaded.embedder = load(config, self.on_event)
                loaded.config = config
            return loaded.embedder

    def _config(self) -> EmbedderConfig:
        options = dict(self.model_kwargs)
        where = {name: options.pop(name) for name in _WHERE if name in options}
        where["remote_code"] = bool(options.get("trust_remote_code", False))
        where["cache_folder"] = options.pop("cache_folder", None) or self.cache_folder
        backend = options.pop("backend", self.backend)
        device = options.pop("device", None) or self.device
        if self.device not in ("auto", device):
            raise ValueError(
                f"device={self.device!r} and model_kwargs['device']={device!r} disagree"
            )
        options["model_kwargs"] = dict(options.get("model_kwargs") or {})
        dtype: str = self.dtype
        for name in ("torch_dtype", "dtype"):
            if (named := options["model_kwargs"].pop(name, None)) is not None:
                dtype = str(named).removeprefix("torch.")
        return EmbedderConfig(
            model=self.model,
            device="all" if self.multi_process and device == "auto" else device,
            backend=backend,
            dtype=dtype,
            fallback=self.fallback,
            max_batch_tokens=self.max_batch_tokens,
            where=where,
            options=options,
        )

    def _warn_of_truncation(self, count: int, total: int, embedder: Embedder) -> None:
        if self._loaded.warned_of_truncation:
            return
        self._loaded.warned_of_truncation = True
        warnings.warn(
            f"{count} of {total} texts are longer than the {embedder.encoder.window} tokens "
            f"{self.model} reads, and were cut (said once). on_long='mean' embeds all of a text, "
            f"on_long='error' refuses it; embed_with_report lists which.",
            TruncationWarning,
            stacklevel=4,
        )


def _as_list(texts: Any) -> list[Any]:
    """Take any iterable of texts but a lone string, which would be embedded letter by letter."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts is one {type(texts).__name__}; pass a list: [text]")
    try:
        return texts if isinstance(texts, list) else list(texts)
    except TypeError:
        raise TypeError(f"texts is {type(texts).__name__}, not a list of str") from None


def _problem(item: object) -> str | None:
    if not isinstance(item, str):
        return f"is {type(item).__name__}, not str"
    return surrogate_problem(item)


def _non_finite(vectors: NDArray[Any]) -> list[int]:
    rows: list[int] = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
    return rows


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Progress | None]:
    """Open a progress bar, or nothing."""
    if not shown:
        yield None
        return
    tqdm = require("tqdm.auto", extra="local").tqdm
    with tqdm(total=total, desc="Embedding", unit="text") as bar:
        yield bar.update
