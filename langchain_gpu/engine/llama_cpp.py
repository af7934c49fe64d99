"""GGUF embedders through llama.cpp, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xllamacpp
from numpy.typing import NDArray

from langchain_gpu.engine.batching import BatchRules
from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors, done
from langchain_gpu.engine.tasks.embed import (
    EmbedOptions,
    TextTokenizer,
    TextTooLongError,
    check_surrogates,
    check_texts,
)
from langchain_gpu.engine.tasks.token_rows import flat_ids
from langchain_gpu.events import Fallback, Listener, warn_fallback
from langchain_gpu.hardware.devices import Device, DeviceNotFoundError, select_device
from langchain_gpu.llama.errors import LlamaError, ModelLoadError
from langchain_gpu.llama.gpus import gpus_of, position_of
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.llama.shared import shared_server
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.info import HeaderError
from langchain_gpu.planner.arithmetic import rounded
from langchain_gpu.planner.gguf_encoder import WINDOW, slots_of

_OPTIONS = ("n_ctx", "n_gpu_layers", "n_parallel", "n_threads", "pooling")
_POOLINGS = (None, "mean", "cls", "last")
_NAMED = 10  # texts of a batch that an error names
_CHARACTERS_PER_TOKEN = 64  # far above any language's average

Ids = list[int]


@dataclass(frozen=True, slots=True)
class LlamaRows:
    """What llama.cpp computes row by row.

    Attributes:
        rows: Token ids of texts, or pairs of texts.
        start: Position of the first item in the caller's sequence.
    """

    rows: list[Any]
    start: int


@dataclass(frozen=True, slots=True)
class LlamaBatch:
    """One batch.

    Attributes:
        rows: As those of `LlamaRows`.
        items: Position of each row's item in the caller's sequence.
    """

    rows: list[Any]
    items: list[int]


class LlamaCppEncoder:
    """An embedder in a GGUF file; see `Encoder` and `TextEncoder`. Its vectors have unit length.

    Args:
        path: The `.gguf` file.
        device: Where its layers go.
        dtype: `"auto"`: the file brings its own.
        options: `n_ctx`, the tokens of the longest text (2048, or the model's own window where
            that is smaller); `pooling` (`"mean"`, `"cls"`, `"last"`) where the file names none;
            `n_gpu_layers`, `n_parallel` and `n_threads` as llama.cpp means them.
        fallback: `"cpu"` goes on there with a warning where the device cannot be used.
        on_event: Told of that.

    Raises:
        DeviceNotFoundError: The device cannot be used and the policy is `"error"`.
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
        ValueError: A dtype was asked for, or an option is unknown.
    """

    _pooling: ClassVar[str | None] = None  # that of the file, or of the options
    _what: ClassVar[str] = "embedding"

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        fallback: Fallback = "cpu",
        on_event: Listener | None = None,
    ) -> None:
        chosen = dict(options or {})
        if dtype != "auto":
            raise ValueError(f"a GGUF file brings its own dtype; choose another file, not {dtype}")
        if unknown := [name for name in chosen if name not in _OPTIONS]:
            raise ValueError(f"unknown options {unknown}; llama_cpp knows {', '.join(_OPTIONS)}")
        if chosen.get("pooling") not in _POOLINGS:
            raise ValueError(f"pooling {chosen['pooling']!r} is not one of mean, cls, last")
        self._path, self._options, self._fallback = path.resolve(), chosen, fallback
        self._on_event = on_event
        self._asked: int = chosen.get("n_ctx") or _window_of(self._path)
        self._server: LlamaServer | None = None
        self.to(device)
        self.dimension = self._look()

    @property
    def device(self) -> Device:
        """Where the layers are, with the reason."""
        return self._device

    @property
    def rules(self) -> BatchRules:
        """How batches are to be planned: llama.cpp packs the rows of a batch by itself."""
        return BatchRules(padded=False)

    @property
    def dtype(self) -> str:
        """What the file's weights are in, in llama.cpp's words, for example `"F16"`."""
        return str(self._open.facts.get("ftype", "gguf"))

    @property
    def window(self) -> int | None:
        """Tokens the model reads at most, special tokens included."""
        return self._window

    @property
    def prompts(self) -> Mapping[str, str]:
        """None: a GGUF file holds no prompts for embedders."""
        return {}

    @property
    def default_prompt_name(self) -> str | None:
        """None; see `prompts`."""
        return None

    @property
    def details(self) -> str:
        """See `TextEncoder.details`."""
        return ""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        return [len(self._wrap(ids)) for ids in self._ids(texts, 0)]

    def tokenize(self, items: Sequence[str], options: EmbedOptions, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`.

        Raises:
            TextTooLongError: A text exceeds the window and the policy is `"error"`.
        """
        room = self._window - len(self._before) - len(self._after)
        limit = room if options.on_long == "truncate" else None
        check_texts(items, start=start)
        rows, owners, truncated = [], [], []
        for item, ids in enumerate(
            self._ids([options.prompt + text for text in items], start, limit)
        ):
            if not ids and not self._before and not self._after:
                raise ValueError(f"text {start + item} has no tokens, and this model adds none")
            if len(ids) > room and options.on_long == "error":
                raise TextTooLongError(
                    f"text {start + item} is longer than the model's window of {self.window} "
                    f"tokens; split it, or choose on_long='truncate' or 'mean'"
                )
            pieces = [ids[at : at + room] for at in range(0, max(1, len(ids)), room)]
            if len(pieces) > 1 and options.on_long == "truncate":
                pieces = pieces[:1]
                truncated.append(item)
            rows += [self._wrap(piece) for piece in pieces]
            owners += [item] * len(pieces)
        lengths = [len(row) for row in rows]
        windowed = owners if len(owners) > len(items) else None
        return tokenized(LlamaRows(rows, start), lengths, windowed, truncated)

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """See `TextEncoder.from_ids`."""
        vocabulary = int(self._open.facts["n_vocab"])
        _, lengths = flat_ids(rows, window=self._window, vocabulary=vocabulary, start=start)
        ids = [[int(each) for each in row] for row in rows]
        return tokenized(LlamaRows(ids, start), lengths)

    def prepare(self, tokens: Tokenized, rows: NDArray[np.int64]) -> LlamaBatch:
        """See `Encoder.prepare`."""
        whole: LlamaRows = tokens.payload
        items = rows if tokens.owners is None else tokens.owners[rows]
        return LlamaBatch([whole.rows[row] for row in rows], (items + whole.start).tolist())

    def forward(self, features: LlamaBatch) -> Pending:
        """See `Encoder.forward`."""
        try:
            return done(self._open.embed(features.rows))
        except LlamaError as error:
            items = ", ".join(map(str, features.items[:_NAMED]))
            more = ", ..." if len(features.items) > _NAMED else ""
            raise error.at(f"in a batch of the texts {items}{more}") from error

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return TextTokenizer.merge(tokens, vectors)

    def to(self, device: Device) -> None:
        """Load the file onto `device`, or onto the CPU where the policy allows.

        Raises:
            DeviceNotFoundError: The device cannot be used and the policy is `"error"`.
            ModelLoadError: The file does not fit into memory.
        """
        self._server = None  # never two models at once
        problem = self._start(device)
        if problem is None:
            return
        if self._fallback == "error":
            raise DeviceNotFoundError(f"{device} cannot be used and fallback='error': {problem}")
        warn_fallback(
            self._on_event, what=self._what, source=str(device), target="cpu", reason=problem
        )
        self._load(replace(select_device("cpu"), reason=problem))

    def close(self) -> None:
        """Let go of the weights; they are freed with the last encoder that uses them."""
        self._server = None

    def _start(self, device: Device) -> str | None:
        """Load onto a device; return what stands against it."""
        layers: int | None = self._options.get("n_gpu_layers")
        if device.kind == "cpu":
            if layers:
                return f"n_gpu_layers={layers}, but {device.reason}"
            self._load(device)
            return None
        gpus = gpus_of(xllamacpp.get_device_info())
        main_gpu = position_of(gpus, device.kind, device.index or 0)
        if main_gpu is None:
            return (
                "this build of xllamacpp does not see it; the README of xllamacpp names the builds "
                "for CUDA, ROCm and Vulkan"
            )
        try:
            self._load(device, -1 if layers is None else layers, main_gpu)
        except ModelLoadError as error:
            return str(error)
        return None

    def _load(self, device: Device, n_gpu_layers: int = 0, main_gpu: int = 0) -> None:
        slots = slots_of(device.kind)
        self._server = shared_server(
            LlamaSettings(
                path=self._path,
                n_ctx=rounded(self._asked),  # a text beyond its work space is fatal
                n_parallel=self._options.get("n_parallel") or slots,
                n_gpu_layers=n_gpu_layers,
                main_gpu=main_gpu,
                n_threads=self._options.get("n_threads"),
                cores=select_device("cpu").cores or 1,
                embedding=True,
                pooling=self._pooling or self._options.get("pooling"),
            )
        )
        self._device = replace(device, reason=f"{device.reason}; llama.cpp runs the model")

    @property
    def _window(self) -> int:
        return min(self._asked, self._open.n_ctx)

    @property
    def _open(self) -> LlamaServer:
        if self._server is None:
            raise RuntimeError("this encoder is closed")
        return self._server

    def _look(self) -> int:
        """Learn what the model wants around a text; return the width of its vectors."""
        self._before, self._after = self._special_tokens()
        return int(self._open.embed([self._wrap(self._open.tokenize("a"))]).shape[1])

    def _special_tokens(self) -> tuple[Ids, Ids]:
        """Return what the model wants before and after a text."""
        plain, whole = self._open.tokenize("a"), self._open.tokenize("a", special=True)
        for at in range(len(whole) - len(plain) + 1):
            if whole[at : at + len(plain)] == plain:
                return whole[:at], whole[at + len(plain) :]
        raise ValueError(f"{self._path.name} tokenizes a text in a way that cannot be cut")

    def _wrap(self, ids: Ids) -> Ids:
        return [*self._before, *ids, *self._after]

    def _ids(self, texts: Sequence[str], start: int, limit: int | None = None) -> Iterable[Ids]:
        """Yield the ids of each text without special tokens; no more than needed of a huge one."""
        server = self._open
        check_texts(texts, start=start)
        check_surrogates(texts, start=start)
        for text in texts:
            if limit is not None and len(text) > _CHARACTERS_PER_TOKEN * limit:
                # Up to a space the tokens do not depend on what follows.
                end = text.rfind(" ", 0, _CHARACTERS_PER_TOKEN * limit)
                head = server.tokenize(text[:end]) if end > 0 else []
                if len(head) > limit:
                    yield head
                    continue
            yield server.tokenize(text)


def tokenized(
    rows: LlamaRows,
    lengths: Sequence[int] | NDArray[np.int64],
    owners: Sequence[int] | None = None,
    truncated: Sequence[int] = (),
) -> Tokenized:
    """Make rows ready for planning; see `Tokenized` for the arguments."""
    return Tokenized(
        np.asarray(lengths, np.int64),
        rows,
        None if owners is None else np.asarray(owners, np.int64),
        np.asarray(truncated, np.int64),
    )


def _window_of(path: Path) -> int:
    """Return the tokens that a text of this model may have, where nothing else is asked for."""
    try:
        said = read_info(path).context_length
    except HeaderError:  # what is wrong with the file is said when it is loaded
        return WINDOW
    return min(WINDOW, said or WINDOW)
