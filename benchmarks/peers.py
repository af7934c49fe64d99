"""Peers that are no Python library: llama.cpp, and servers that speak the OpenAI form."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import WINDOW

_TEXTS = 64  # per request
_REQUESTS = 4  # in flight
_TIMEOUT = 300.0  # seconds


class LlamaCpp:
    """llama.cpp's own server, called in this process.

    Args:
        path: The GGUF file.
        threads: CPU threads.
        gpu: Put all layers on the GPU.
    """

    def __init__(self, path: Path, *, threads: int, gpu: bool) -> None:
        import xllamacpp

        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.embedding = True
        params.n_parallel = 4
        params.n_ctx = WINDOW * params.n_parallel
        params.n_batch = params.n_ubatch = WINDOW * params.n_parallel
        params.n_gpu_layers = 999 if gpu else 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.hostnames = [str(Path(self._folder.name) / "llama.sock")]
        params.cache_ram_mib = 0
        params.endpoint_metrics = True
        params.verbosity = 0
        self._server = xllamacpp.Server(params)
        self._server.handle_metrics()  # answered once it is ready

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed texts, many per request."""
        return np.concatenate([self._ask(part) for part in parts(texts)])

    def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        answer: Any = self._server.handle_embeddings({"input": texts})
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return _rows(answer)


class OpenAIServer:
    """A server with `/v1/embeddings`, for example vLLM.

    Args:
        url: Where it is, with or without `/v1`.
    """

    def __init__(self, url: str) -> None:
        import httpx

        base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self._client = httpx.Client(base_url=base, timeout=_TIMEOUT)
        models = self._client.get("/models").raise_for_status().json()
        self._model: str = models["data"][0]["id"]
        self._pool = ThreadPoolExecutor(_REQUESTS)

    def embed(self, texts: list[str]) -> NDArray[np.float32]:
        """Embed texts, many per request and several requests at once."""
        return np.concatenate(list(self._pool.map(self._ask, parts(texts))))

    def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        body = {"model": self._model, "input": texts}
        return _rows(self._client.post("/embeddings", json=body).raise_for_status().json())


def parts(texts: list[str]) -> Iterator[list[str]]:
    """Cut texts into those of one request each."""
    for start in range(0, len(texts), _TEXTS):
        yield texts[start : start + _TEXTS]


def make_gguf(folder: Path, target: Path) -> tuple[Path | None, str]:
    """Convert a BERT model for llama.cpp with the tool in the shared folder, if it is there.

    Returns:
        The file and an empty string, or None and why there is none.
    """
    shared = Path(os.environ.get("LANGCHAIN_GPU_SHARED", Path(__file__).parents[2] / "shared"))
    tool = shared / "tools" / "bert2gguf.py"
    if not tool.is_file():
        return None, "no GGUF file was given (--gguf), and no tool to make one is here"
    command = [sys.executable, str(tool), str(folder), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip() or "it failed").splitlines()[-1]
        return None, f"the GGUF file could not be made: {last}"
    return target, ""


def _rows(answer: Any) -> NDArray[np.float32]:
    data = sorted(answer["data"], key=lambda each: int(each["index"]))
    return np.array([each["embedding"] for each in data], np.float32)
