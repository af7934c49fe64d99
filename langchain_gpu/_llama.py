"""The one place that starts a llama.cpp server, in this process and with no door to the outside."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import xllamacpp
from numpy.typing import NDArray

from langchain_gpu.models.ggml_types import CACHE_TYPES
from langchain_gpu.models.gguf import read_head
from langchain_gpu.models.info import HeaderError

_MAGIC = b"GGUF"
# llama.cpp's own limit, and what its 32 bits hold.
_MOST_LAYERS, _MOST_TOKENS = 512, 2**31 - 1
_VERSIONS = (2, 3)
# Longest path a Unix socket may have, with room for systems that allow less than Linux's 107.
_SOCKET_PATH = 100
_HTTP_SECONDS = 30.0
_POOLINGS = {
    "mean": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
    "cls": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_CLS,
    "last": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST,
    "rank": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK,
}
_LOOK_SECONDS = 0.1


class ModelLoadError(RuntimeError):
    """A GGUF file could not be loaded; the message names the file."""


class LlamaError(RuntimeError):
    """llama.cpp refused a request.

    Attributes:
        details: What llama.cpp said about it: `code`, `type`, `message` and more.
    """

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(f"llama.cpp: {details.get('message', 'failed without a message')}")
        self.details = details


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSettings:
    """Everything that makes two servers different.

    Attributes:
        path: The `.gguf` file.
        n_ctx: Tokens of one slot; llama.cpp lowers it to the model's own window.
        n_parallel: Slots, that is chats at the same time. Memory grows with `n_ctx * n_parallel`.
        n_gpu_layers: Layers on the GPU; -1 lets llama.cpp take as many as fit.
        main_gpu: Index of the one GPU to use.
        n_threads: CPU threads; None takes the cores that are free when the model is loaded. More
            than that is slower by magnitudes: threads that wait for each other spin.
        cores: CPU cores this process may use.
        embedding: The server gives vectors and does not chat. A text then goes through in one
            piece, so memory grows with the square of `n_ctx` where there is no flash attention.
        pooling: How token vectors become one: `"mean" | "cls" | "last"`; None for the way the
            file names. `"rank"` has the server score documents.
        fit: Let llama.cpp lower what was left to it (`n_gpu_layers=-1`) until the model fits.
        tensor_split: Shares of the layers per GPU, to spread them; empty for `main_gpu` alone.
        cache_dtype: Type of the KV cache, a key of `models.ggml_types.CACHE_TYPES`.
        ubatch: Tokens computed in one step.
        verbosity: How much llama.cpp writes to stderr: 0 errors, 4 its buffers too.
    """

    path: Path
    n_ctx: int
    n_parallel: int
    n_gpu_layers: int
    main_gpu: int
    n_threads: int | None
    cores: int
    embedding: bool = False
    pooling: str | None = None
    fit: bool = True
    tensor_split: tuple[float, ...] = ()
    cache_dtype: str = "float16"
    ubatch: int = 512
    verbosity: int = 0


class LlamaServer:
    """A loaded GGUF model that answers chats, or gives vectors. Safe to call from several threads.

    It is freed with the last reference to it. llama.cpp's server always listens: here on a Unix
    socket in a folder only this user may enter, elsewhere on a loopback port behind a random key.

    Raises:
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
    """

    def __init__(self, settings: LlamaSettings) -> None:
        check_gguf(settings.path)
        self.settings = settings
        folder = tempfile.mkdtemp(prefix="langchain-gpu-")  # mode 0700
        self._remove_folder = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._key = secrets.token_urlsafe(32)
        params = _parameters(settings)
        socket_path = Path(folder) / "llama.sock"
        if hasattr(socket, "AF_UNIX") and len(os.fsencode(socket_path)) <= _SOCKET_PATH:
            self._socket: Path | None = socket_path
            params.hostnames = [str(socket_path)]
        else:
            self._socket = None
            params.hostnames = ["127.0.0.1"]
            params.api_keys = [self._key]
        try:
            self._native = xllamacpp.Server(params)
        except RuntimeError as error:
            self._remove_folder()
            size = settings.path.stat().st_size
            raise ModelLoadError(
                f"{settings.path}: llama.cpp could not load this file of {size:,} bytes. It is "
                f"incomplete or damaged, or needs a newer xllamacpp than {xllamacpp.__version__}, "
                f"or more memory than is free (n_ctx={settings.n_ctx}, "
                f"n_parallel={settings.n_parallel}, n_gpu_layers={settings.n_gpu_layers})"
            ) from error
        # Answered once the server's loop runs: freed before that, a server would wait for ever.
        self._native.handle_metrics()

    def chat(self, body: Mapping[str, Any], on_chunk: Callable[[dict[str, Any]], bool]) -> None:
        """Stream one chat completion; returns after the last chunk.

        Args:
            body: The request in the OpenAI format and llama.cpp's own options.
            on_chunk: Receives every chunk, in this thread; returning True cancels.

        Raises:
            LlamaError: llama.cpp refused the request or broke it off.
            BaseException: Whatever `on_chunk` raised.
        """
        self._stream(self._native.handle_chat_completions, body, on_chunk)

    def complete(self, body: Mapping[str, Any], on_chunk: Callable[[dict[str, Any]], bool]) -> None:
        """Stream the continuation of `body["prompt"]`, outside any template; see `chat`."""
        self._stream(self._native.handle_completions, body, on_chunk)

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return one unit vector per row of token ids, shape (rows, dimension).

        Raises:
            LlamaError: A row is empty, longer than a slot, or holds an unknown id; or the file
                names no pooling and none was chosen.
        """
        body = {"input": [list(row) for row in rows], "encoding_format": "base64"}
        answer = self._native.handle_embeddings(body)
        _raise_error(answer)
        data = sorted(answer["data"], key=lambda each: int(each["index"]))
        whole = b"".join(base64.b64decode(each["embedding"]) for each in data)
        return np.frombuffer(whole, np.float32).reshape(len(data), -1)

    def rerank(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Return one score per document, shape (documents,), and the tokens of all pairs.

        Raises:
            LlamaError: A pair is longer than a slot, or the model has no head that scores.
        """
        answer = self._native.handle_rerank({"query": query, "documents": list(documents)})
        _raise_error(answer)
        scores = np.full(len(documents), np.nan, np.float32)
        for each in answer["results"]:
            scores[each["index"]] = each["relevance_score"]
        return scores, int(answer["usage"]["total_tokens"])

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of a text.

        Args:
            text: Anything that can be encoded as UTF-8.
            special: Add the special tokens that the model expects around a text.
        """
        body = {"content": text, "add_special": special}
        tokens: list[int] = self._ask("POST", "/tokenize", body)["tokens"]
        return tokens

    def prompt(self, body: Mapping[str, Any]) -> str:
        """Return the text that a chat becomes in the model's own template."""
        text: str = self._ask("POST", "/apply-template", body)["prompt"]
        return text

    @property
    def n_ctx(self) -> int:
        """Tokens of one slot."""
        window: int = self._properties["default_generation_settings"]["n_ctx"]
        return window

    @property
    def knows_tools(self) -> bool:
        """Whether the model's chat template can describe tools."""
        return bool(self._properties["chat_template_caps"]["supports_tools"])

    @cached_property
    def options(self) -> frozenset[str]:
        """Names of the options of a call that llama.cpp has defaults for."""
        return frozenset(self._properties["default_generation_settings"]["params"])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What llama.cpp knows of the model: `n_vocab`, `n_embd`, `ftype` and more."""
        found: dict[str, Any] = self._ask("GET", "/v1/models")["data"][0]["meta"]
        return found

    @cached_property
    def _properties(self) -> dict[str, Any]:
        return self._ask("GET", "/props")

    def _stream(
        self,
        handle: Callable[..., Any],
        body: Mapping[str, Any],
        on_chunk: Callable[[dict[str, Any]], bool],
    ) -> None:
        failure: BaseException | None = None

        # llama.cpp swallows exceptions of the callback and puts its own errors among the chunks.
        def guarded(chunk: dict[str, Any]) -> bool:
            nonlocal failure
            try:
                _raise_error(chunk)
                return on_chunk(chunk)
            except BaseException as error:  # noqa: BLE001  it is raised below
                failure = error
                return True

        try:
            result = handle({**body, "stream": True}, guarded)
        except RuntimeError as error:
            raise LlamaError({"message": str(error)}) from error
        if failure is not None:
            raise failure
        _raise_error(result)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call what the binding does not offer in process: 0.2 ms over a Unix socket."""
        connection: http.client.HTTPConnection
        if self._socket is not None:
            connection = _UnixConnection(self._socket)
        else:
            netloc = urlsplit(self._native.listening_address).netloc
            connection = http.client.HTTPConnection(netloc, timeout=_HTTP_SECONDS)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        _raise_error(answer)
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_HTTP_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_HTTP_SECONDS)
        self.sock.connect(str(self._path))


_servers: weakref.WeakValueDictionary[LlamaSettings, LlamaServer] = weakref.WeakValueDictionary()
_servers_lock = threading.Lock()


def shared_server(settings: LlamaSettings) -> LlamaServer:
    """Return the server with these settings that is already here, or start it.

    Raises:
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
    """
    with _servers_lock:
        server = _servers.get(settings)
        if server is None:
            server = _servers[settings] = LlamaServer(settings)
        return server


def running_server(settings: LlamaSettings) -> LlamaServer | None:
    """Return the server with these settings if it is here already."""
    with _servers_lock:
        return _servers.get(settings)


def check_gguf(path: Path) -> None:
    """Look at the first bytes, so that the usual mistakes get a better error than llama.cpp's.

    Raises:
        ModelLoadError: There is no such file, or it is no GGUF file of a known version.
    """
    if not path.is_file():
        raise ModelLoadError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] != _MAGIC:
        raise ModelLoadError(f"{path}: not a GGUF file (it starts with {head[:4]!r})")
    version = int.from_bytes(head[4:], "little")
    if version not in _VERSIONS:
        raise ModelLoadError(f"{path}: GGUF version {version} is not known, only {_VERSIONS}")
    _check_counts(path)


def _check_counts(path: Path) -> None:
    """Refuse counts at which llama.cpp ends the whole process instead of refusing the file."""
    try:
        facts = read_head(path).facts
    except (HeaderError, OSError):  # llama.cpp has its own words for it
        return
    for name, most in (("block_count", _MOST_LAYERS), ("context_length", _MOST_TOKENS)):
        count = facts.get(f"{facts.get('general.architecture')}.{name}", 1)
        if isinstance(count, int) and not 0 < count <= most:
            raise ModelLoadError(f"{path}: the file is damaged: its {name} is {count:,}")


def free_cores(cores: int) -> int:
    """Return how many of this process's `cores` nobody else works on just now, at least 1.

    Where the system does not say (only Linux does), all of them.
    """
    before = _cpu_ticks()
    time.sleep(_LOOK_SECONDS)
    after = _cpu_ticks()
    if before is None or after is None or after[1] == before[1]:
        return cores
    idle = (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)
    return max(1, min(cores, round(idle)))


def _cpu_ticks() -> tuple[int, int] | None:
    """Idle and total time of all CPUs together, in the kernel's ticks."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks[3:5]), sum(ticks)  # idle and waiting for the disk


def _parameters(settings: LlamaSettings) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = str(settings.path)
    params.n_ctx = settings.n_ctx * settings.n_parallel  # llama.cpp divides it by the slots
    params.n_parallel = settings.n_parallel
    params.n_gpu_layers = settings.n_gpu_layers
    params.main_gpu = settings.main_gpu
    modes = xllamacpp.llama_split_mode
    params.split_mode = modes.LLAMA_SPLIT_MODE_NONE
    if settings.tensor_split:
        params.split_mode = modes.LLAMA_SPLIT_MODE_LAYER
        unused = len(params.tensor_split) - len(settings.tensor_split)
        params.tensor_split = [*settings.tensor_split, *([0.0] * unused)]
    params.fit_params = settings.fit
    params.cache_type_k = params.cache_type_v = _cache_type(settings.cache_dtype)
    params.n_ubatch = settings.ubatch
    n_threads = settings.n_threads or free_cores(settings.cores)
    params.cpuparams.n_threads = n_threads
    params.cpuparams_batch.n_threads = n_threads
    params.n_threads_http = 1  # chats are called in process; only tokenizing goes over the socket
    if settings.embedding:
        params.embedding = True
        # A text is never cut into batches; and llama.cpp ends the process where the slots do not
        # divide a batch evenly.
        params.n_batch = params.n_ubatch = -(-settings.n_ctx // settings.n_parallel) * (
            settings.n_parallel
        )
        if settings.pooling is not None:
            params.pooling_type = _POOLINGS[settings.pooling]
    params.verbosity = settings.verbosity
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_metrics = True  # the start waits for its first answer
    # Finished prompts would be kept in up to 8 GiB of memory; the slots keep the latest anyway.
    params.cache_ram_mib = 0
    # A trailing assistant message is part of the chat, as with every other engine, not a beginning
    # of the answer that would come back as if the model had written it.
    params.prefill_assistant = False
    return params


def _cache_type(name: str) -> Any:
    if name not in CACHE_TYPES:
        raise ValueError(f"cache type {name!r} is not known; take one of {', '.join(CACHE_TYPES)}")
    return getattr(xllamacpp.ggml_type, f"GGML_TYPE_{CACHE_TYPES[name].name}")


def _raise_error(answer: Any) -> None:
    if isinstance(answer, Mapping) and "error" in answer:
        raise LlamaError(answer["error"])


__all__ = [
    "LlamaError",
    "LlamaServer",
    "LlamaSettings",
    "ModelLoadError",
    "check_gguf",
    "free_cores",
    "running_server",
    "shared_server",
]
