"""Servers that write text: the official client, and `ChatGPU` on the same process and model."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai

from benchmarks import servers
from benchmarks.generate_peers import Answer, Streamer
from langchain_gpu import ChatGPU

MODEL = "bench"
QWEN = "qwen-dense"
_SECONDS = 900.0  # for one answer, on a slow machine with many of them at once


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs, and who asks it.

    Attributes:
        name: Server and version.
        model: What it runs.
        streamers: The official client first.
    """

    name: str
    model: str
    streamers: Sequence[Streamer]


def by_ollama(
    url: str, *, slots: int, window: int, transport: httpx.BaseTransport | None = None
) -> tuple[list[Streamer], ChatGPU]:
    """Return the official client and `ChatGPU` on an Ollama that has the model `bench`.

    Ollama knows no way to go on behind an end token: an answer may be shorter than asked for.

    Args:
        url: Where it is.
        slots: Chats at the same time.
        window: Tokens of one chat.
        transport: Of the official client; None for the network.
    """
    chat = ChatGPU(
        model=MODEL,
        backend="ollama",
        base_url=url,
        n_ctx=window,
        n_parallel=slots,
        temperature=0,
        timeout=_SECONDS,
    )
    client = ollama.Client(host=url, timeout=_SECONDS, trust_env=False, transport=transport)
    # With other options than those it was loaded with, Ollama would load the model again.
    loaded = {"num_ctx": window, "temperature": 0}

    def bare(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())
        for part in client.chat(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
            options={**loaded, "num_predict": count},
        ):
            if part.message.content:
                answer.tokens.append(time.perf_counter())
            answer.written = part.eval_count or answer.written
        return answer

    return [Streamer("Ollama directly", bare), _ours("ollama", chat)], chat


def by_vllm(url: str, *, slots: int, transport: Any = None) -> tuple[list[Streamer], ChatGPU]:
    """Return the official client and `ChatGPU` on a vLLM that has the model `bench`.

    Args:
        url: Where it is.
        slots: Chats at the same time.
        transport: Of the official client; None for the network.
    """
    base = f"{url}/v1"
    chat = ChatGPU(
        model=MODEL,
        backend="openai",
        base_url=base,
        n_parallel=slots,
        temperature=0,
        timeout=_SECONDS,
        model_kwargs={"ignore_eos": True},
    )
    client = openai.OpenAI(
        base_url=base,
        api_key="none",
        timeout=_SECONDS,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False, transport=transport),
    )

    def bare(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())
        for chunk in client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=count,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                answer.tokens.append(time.perf_counter())
            if chunk.usage:
                answer.written = chunk.usage.completion_tokens
        return answer

    return [Streamer("vLLM directly", bare), _ours("openai", chat)], chat


@contextmanager
def run_ollama(
    folder: Path, file: Path, *, slots: int, window: int, threads: int, lifetime: int
) -> Iterator[Served]:
    """Run Ollama with a GGUF model until the block ends.

    Raises:
        LeftOutError: It is not there, or does not start.
    """
    needed(folder, servers.OLLAMA)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        models = {MODEL: f"FROM {file}\n"}
        server = servers.ollama(
            folder, Path(work), models, threads=threads, slots=slots, lifetime=lifetime
        )
        with started("Ollama", server) as url:
            streamers, chat = by_ollama(url, slots=slots, window=window)
            with chat:
                version = _get(f"{url}/api/version")
                yield Served(f"Ollama {version['version']}", file.stem, streamers)


@contextmanager
def run_vllm(folder: Path, *, slots: int, window: int, lifetime: int) -> Iterator[Served]:
    """Run vLLM with the model of the integration tests until the block ends.

    Raises:
        LeftOutError: It or its model is not there, or it does not start.
    """
    needed(folder, servers.VLLM)
    needed(folder, QWEN)
    options = ["--dtype", "bfloat16", "--max-model-len", str(window)]
    options += ["--max-num-seqs", str(slots), "--no-enable-prefix-caching"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        server = servers.vllm(folder, Path(work), folder / QWEN, MODEL, *options, lifetime=lifetime)
        with started("vLLM", server) as url:
            streamers, chat = by_vllm(url, slots=slots)
            with chat:
                version = _get(f"{url}/version")
                yield Served(f"vLLM {version['version']}", _model_of(folder / QWEN), streamers)


class LeftOutError(RuntimeError):
    """A contestant cannot take part; the message says why."""


def needed(folder: Path, what: str) -> None:
    """Look whether something is among the servers.

    Raises:
        LeftOutError: It is not.
    """
    if not (folder / what).exists():
        raise LeftOutError(f"no {what} in {folder.name}; `.ci/servers.sh` puts it there")


@contextmanager
def started(name: str, server: AbstractContextManager[servers.Running]) -> Iterator[str]:
    """Run a server and give its address.

    Raises:
        LeftOutError: It did not start, or ended before the block did.
    """
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server)
        except RuntimeError as error:
            said = str(error).strip().splitlines()
            raise LeftOutError(f"{name} did not start: {said[-1]}") from error
        try:
            yield running.url
        except Exception as error:
            with suppress(subprocess.TimeoutExpired):  # its connections end a little before it
                running.process.wait(2)
            if running.process.poll() is None:
                raise
            raise LeftOutError(f"{name} ended in the middle; a longer --lifetime?") from error


def _ours(backend: str, chat: ChatGPU) -> Streamer:
    def stream(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())
        for chunk in chat.stream(prompt, max_tokens=count):
            if chunk.content:
                answer.tokens.append(time.perf_counter())
            if chunk.usage_metadata:
                answer.written = chunk.usage_metadata["output_tokens"]
        return answer

    return Streamer(f"ChatGPU({backend})", stream)


def _model_of(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    named = str(config.get("_model_name_or_path") or folder.name)
    return f"{named}, as {config.get('dtype', 'stored')}"


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own loopback address
        return json.load(answer)


__all__ = [
    "LeftOutError",
    "Served",
    "by_ollama",
    "by_vllm",
    "needed",
    "run_ollama",
    "run_vllm",
    "started",
]
