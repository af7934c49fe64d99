"""Who takes part: the classes people use now, in their defaults and at their best, and ours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

from langchain_gpu import GPUEmbeddings, select_device
from langchain_gpu.events import BatchDone, Event

BASE = "HuggingFaceEmbeddings"  # every ratio is against it
REFERENCE = "sentence-transformers"  # float32: every cosine is against it
HALF = "sentence-transformers, half"
AUTO = "GPUEmbeddings"
_TUNED = "with the best of several batch sizes for each workload"
_TORCH_NAMES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}  # of OpenVINO's


@dataclass(frozen=True, slots=True)
class Setup:
    """What all contestants of a run share.

    Attributes:
        folder: Of the model.
        device: As `GPUEmbeddings` takes it.
        gguf: The same model for llama.cpp; None leaves it out.
        vllm_url: Of a vLLM server that has the model; None leaves it out.
        no_gguf: Why there is no GGUF file.
    """

    folder: Path
    device: str = "auto"
    gguf: Path | None = None
    vllm_url: str | None = None
    no_gguf: str = "no GGUF file was given (--gguf)"

    @property
    def torch_device(self) -> str:
        """The device as torch calls it."""
        return select_device(self.device).torch_name

    @property
    def half(self) -> str:
        """The half precision the device is best at; bfloat16 on a CPU that has none."""
        best = select_device(self.device).dtype
        return best if best != "float32" else "bfloat16"


@dataclass(slots=True)
class Padding:
    """Counts what our batches are filled up with, from the events."""

    tokens: int = 0
    padded: int = 0

    def __call__(self, event: Event) -> None:
        """Take an event of the engine."""
        if isinstance(event, BatchDone):
            self.tokens += event.tokens
            self.padded += event.padded_tokens

    def reset(self) -> None:
        """Begin anew."""
        self.tokens = self.padded = 0

    @property
    def ratio(self) -> float | None:
        """Computed tokens per real one; None if there were none."""
        return self.padded / self.tokens if self.tokens else None


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to embed documents and queries.

    Attributes:
        name: As the tables call it.
        dtype: What it computes in; a floating dtype of torch, `"int8"`, or words.
        documents: Embeds many texts.
        query: Embeds one.
        tune: Chooses its best settings for texts like those given; None where there are none.
        padding: Counts what its batches are filled up with; None if it never says.
        note: What a reader should know of how it ran.
        settles: Seconds after a call until the cores are idle again: threads that wait for more
            work may spin, and would slow down whoever comes next.
    """

    name: str
    dtype: str
    documents: Callable[[list[str]], Any]
    query: Callable[[str], Any]
    tune: Callable[[list[str]], None] | None = None
    padding: Padding | None = None
    note: str = ""
    settles: float = 0.0


class NotHereError(Exception):
    """A contestant cannot take part; the message says why."""


Loader = Callable[[Setup], Contestant]
LOADERS: dict[str, Loader] = {}


def enter(name: str) -> Callable[[Loader], Loader]:
    """Make a loader known under its contestant's name; their order is that of the table."""

    def add(loader: Loader) -> Loader:
        LOADERS[name] = loader
        return loader

    return add


def load(setup: Setup, name: str) -> Contestant:
    """Load a contestant.

    Raises:
        NotHereError: It cannot take part here.
    """
    try:
        return LOADERS[name](setup)
    except (ImportError, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        text = str(error).strip() or type(error).__name__
        raise NotHereError(text.splitlines()[0]) from error


@enter(BASE)
def _hugging_face(setup: Setup) -> Contestant:
    from langchain_huggingface import HuggingFaceEmbeddings

    peer = HuggingFaceEmbeddings(
        model=str(setup.folder), model_kwargs={"device": setup.torch_device}
    )
    return Contestant(BASE, "float32", peer.embed_documents, peer.embed_query)


@enter(REFERENCE)
def _plain(setup: Setup) -> Contestant:
    model = _sentence_transformer(setup, "float32")
    return Contestant(REFERENCE, "float32", model.encode, model.encode)


@dataclass(slots=True)
class Tuned:
    """sentence-transformers with the batch size that suits the texts.

    Args:
        model: A `SentenceTransformer`.
        sizes: Batch sizes to try.
    """

    model: Any
    sizes: Sequence[int]
    best: int = field(default=32, init=False)

    def encode(self, texts: list[str]) -> Any:
        """Embed texts in batches of the best size."""
        return self.model.encode(texts, batch_size=self.best)

    def tune(self, texts: list[str]) -> None:
        """Find the fastest size for texts like these: the better of two tries each."""
        spent: dict[int, float] = {}
        for size in self.sizes:
            for _ in range(2):
                began = perf_counter()
                self.model.encode(texts, batch_size=size)
                spent[size] = min(perf_counter() - began, spent.get(size, float("inf")))
        self.best = min(self.sizes, key=lambda size: spent[size])


@enter(HALF)
def _half(setup: Setup) -> Contestant:
    model = _sentence_transformer(setup, setup.half)
    on_cpu = setup.torch_device == "cpu"
    tuned = Tuned(model, (8, 16, 32, 64) if on_cpu else (128, 256, 512, 1024))
    name = f"sentence-transformers, {setup.half}"
    return Contestant(name, setup.half, tuned.encode, model.encode, tune=tuned.tune, note=_TUNED)


@enter("sentence-transformers, openvino")
def _openvino(setup: Setup) -> Contestant:
    if setup.torch_device != "cpu":
        raise NotHereError("it is for CPUs")
    parent = importlib.util.find_spec("optimum")
    if parent is None or importlib.util.find_spec("optimum.intel") is None:
        raise NotHereError("optimum-intel is not installed: benchmarks/peers.txt says how")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(setup.folder), backend="openvino")
    compiled = model[0].auto_model.request
    dtype = _TORCH_NAMES[compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
    tuned = Tuned(model, (8, 16, 32, 64))
    note = f"{_TUNED}; optimum-intel, which chooses the dtype"
    name = "sentence-transformers, openvino"
    return Contestant(name, dtype, tuned.encode, model.encode, tune=tuned.tune, note=note)


@enter("llama.cpp")
def _llama(setup: Setup) -> Contestant:
    if setup.gguf is None:
        raise NotHereError(setup.no_gguf)
    if not setup.gguf.is_file():
        raise NotHereError(f"{setup.gguf} is no file")
    from benchmarks.peers import LlamaCpp

    place = select_device(setup.device)
    peer = LlamaCpp(setup.gguf, threads=place.cores or 1, gpu=place.kind != "cpu")
    return Contestant(
        "llama.cpp", "as the GGUF file says", peer.embed, lambda text: peer.embed([text])
    )


@enter("vLLM")
def _vllm(setup: Setup) -> Contestant:
    if setup.vllm_url is None:
        raise NotHereError("no server was given (--vllm-url)")
    from benchmarks.peers import OpenAIServer

    peer = OpenAIServer(setup.vllm_url)
    note = "a server, asked for 64 texts at a time, 4 requests at once"
    return Contestant(
        "vLLM",
        "as the server says",
        peer.embed,
        lambda text: peer.embed([text]),
        note=note,
        settles=1.5,  # its threads were seen to spin for a second
    )


@enter("GPUEmbeddings, torch, float32")
def _exact(setup: Setup) -> Contestant:
    return _own("GPUEmbeddings, torch, float32", setup, "torch", "float32")


@enter("GPUEmbeddings, torch")
def _torch(setup: Setup) -> Contestant:
    return _own("GPUEmbeddings, torch", setup, "torch", "auto")


@enter(AUTO)
def _auto(setup: Setup) -> Contestant:
    return _own(AUTO, setup, "auto", "auto")


@enter("GPUEmbeddings, to array")
def _to_array(setup: Setup) -> Contestant:
    return _own("GPUEmbeddings, to array", setup, "auto", "auto", array=True)


@enter("GPUEmbeddings, int8")
def _int8(setup: Setup) -> Contestant:
    return _own("GPUEmbeddings, int8", setup, "auto", "int8")


def _own(name: str, setup: Setup, backend: str, dtype: str, *, array: bool = False) -> Contestant:
    ours, padding = loaded(setup, backend, dtype)
    documents: Callable[[list[str]], Any] = ours.embed_to_array if array else ours.embed_documents
    return Contestant(
        name,
        ours.computed_in,
        documents,
        ours.embed_query,
        padding=padding,
        note=ours.backend_reason,
    )


@lru_cache
def loaded(setup: Setup, backend: str, dtype: str) -> tuple[GPUEmbeddings, Padding]:
    """Load our class once for all contestants that differ in the container only."""
    padding = Padding()
    options: dict[str, Any] = {"backend": backend, "dtype": dtype}
    ours = GPUEmbeddings(model=str(setup.folder), device=setup.device, on_event=padding, **options)
    ours.embed_query("load the model")
    return ours, padding


def _sentence_transformer(setup: Setup, dtype: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(setup.folder), device=setup.torch_device, model_kwargs={"dtype": dtype}
    )
