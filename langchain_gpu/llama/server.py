"""A llama.cpp server in this process: the only place that starts one."""

from __future__ import annotations

import base64
import ctypes
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import xllamacpp
from numpy.typing import NDArray

from langchain_gpu.llama.checks import check_gguf
from langchain_gpu.llama.endpoint import Endpoint
from langchain_gpu.llama.errors import LlamaError, ModelLoadError, raise_error
from langchain_gpu.llama.parameters import parameters
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.utils.forking import check_process
from langchain_gpu.utils.slots import SlotPool

_alive: weakref.WeakSet[LlamaServer] = weakref.WeakSet()
_left: list[LlamaServer] = []


class LlamaServer:
    """A loaded GGUF model that answers chats, or gives vectors. Safe to call from several threads.

    It is freed with the last reference to it.

    Attributes:
        settings: How it was started.
        slots: Its slots; a chat holds one of them.

    Raises:
        ModelLoadError: The file is missing, damaged, or does not fit into memory.
        RuntimeError: This process was forked from one where another was running.
    """

    def __init__(self, settings: LlamaSettings) -> None:
        for other in list(_alive):  # of a parent: llama.cpp shares threads among its servers
            check_process(other.process)
        check_gguf(settings.path)
        self.settings = settings
        self.process: int = os.getpid()
        self.slots = SlotPool(settings.n_parallel)
        self._endpoint = Endpoint()
        params = parameters(settings)
        self._endpoint.guard(params)
        try:
            self._native = xllamacpp.Server(params)
        except RuntimeError as error:
            self._endpoint.close()
            size = settings.path.stat().st_size
            raise ModelLoadError(
                f"{settings.path}: llama.cpp could not load this file of {size:,} bytes. It is "
                f"incomplete or damaged, or needs a newer xllamacpp than {xllamacpp.__version__}, "
                f"or more memory than is free (n_ctx={settings.n_ctx}, "
                f"n_parallel={settings.n_parallel}, n_gpu_layers={settings.n_gpu_layers})"
            ) from error
        # Answered once the server's loop runs: freed before that, a server would wait forever.
        self._native.handle_metrics()
        self._endpoint.opened(self._native.listening_address)
        _alive.add(self)

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
        raise_error(answer)
        data = sorted(answer["data"], key=lambda each: int(each["index"]))
        whole = b"".join(base64.b64decode(each["embedding"]) for each in data)
        return np.frombuffer(whole, np.float32).reshape(len(data), -1)

    def rerank(self, query: str, documents: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Return one score per document, shape (documents,), and the tokens of all pairs.

        Raises:
            LlamaError: A pair is longer than a slot, or the model has no head that scores.
        """
        answer = self._native.handle_rerank({"query": query, "documents": list(documents)})
        raise_error(answer)
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

    def leave(self) -> None:
        """Leave it to the parent of this forked process.

        Freed here, it would wait for threads that stayed behind.
        """
        _left.append(self)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._native))  # the end of Python frees lists
        self._endpoint.leave()

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
                raise_error(chunk)
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
        raise_error(result)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call what the binding does not offer in process."""
        answer = self._endpoint.ask(method, path, body)
        raise_error(answer)
        return answer


def _leave_all() -> None:
    for server in list(_alive):
        server.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


__all__ = ["LlamaServer"]
