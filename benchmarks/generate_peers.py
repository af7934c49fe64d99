"""Who writes text in the benchmark: our classes, and what they stand on or replace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from langchain_huggingface import HuggingFacePipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, pipeline

from langchain_gpu import GPULLM, ChatGPU, select_device
from langchain_gpu.llama.server import LlamaServer


@dataclass(slots=True)
class Answer:
    """One streamed answer.

    Attributes:
        start: `time.perf_counter()` of its start.
        tokens: The same of every piece of text. A busy server may send several tokens as one.
        written: Tokens as the engine counts them; None where it was not asked.
    """

    start: float
    tokens: list[float] = field(default_factory=list)
    written: int | None = None

    @property
    def count(self) -> int:
        """Tokens of the answer; 0 where no text came."""
        return (self.written or len(self.tokens)) if self.tokens else 0


@dataclass(frozen=True, slots=True)
class Streamer:
    """Answers one prompt, token by token."""

    name: str
    stream: Callable[[str, int], Answer]


@dataclass(frozen=True, slots=True)
class Writer:
    """Answers all prompts, whole; returns how many tokens were written."""

    name: str
    write: Callable[[Sequence[str], int], int]


def llama_cpp(file: Path, slots: int, window: int, threads: int) -> tuple[list[Streamer], ChatGPU]:
    """Return the bare binding and `ChatGPU` on the same loaded model."""
    chat = ChatGPU(
        model=str(file),
        backend="llama_cpp",
        device="cpu",
        n_ctx=window,
        n_parallel=slots,
        n_threads=threads,
        temperature=0,
    )
    with chat._hold() as generator:  # noqa: SLF001 - the same server for both
        server: LlamaServer = generator._open  # type: ignore[attr-defined]  # noqa: SLF001

    def ours(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())
        for chunk in chat.stream(prompt, max_tokens=count, ignore_eos=True, cache_prompt=False):
            if chunk.content:
                answer.tokens.append(time.perf_counter())
        return answer

    def bare(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())

        def hear(chunk: dict[str, Any]) -> bool:
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                answer.tokens.append(time.perf_counter())
            return False

        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": count,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
        }
        server._native.handle_chat_completions(body, hear)  # noqa: SLF001 - that is the peer
        return answer

    return [Streamer("xllamacpp", bare), Streamer("ChatGPU(llama_cpp)", ours)], chat


def transformers(folder: Path, width: int, device: str = "cpu") -> tuple[list[Writer], GPULLM]:
    """Return HuggingFacePipeline, as it comes and in one batch, and `GPULLM`, all in bfloat16."""
    place = select_device(device).torch_name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(place)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def peer(name: str, **batch: int) -> Writer:
        task = pipeline("text-generation", model=model, tokenizer=tokenizer, device=place, **batch)
        llm = HuggingFacePipeline(pipeline=task, **batch)

        def write(prompts: Sequence[str], count: int) -> int:
            fixed = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
            texts = llm.batch(list(prompts), pipeline_kwargs=fixed)
            assert all(texts)
            return len(texts) * count

        return Writer(name, write)

    llm = GPULLM(
        model=str(folder),
        backend="transformers",
        device=device,
        dtype="bfloat16",
        n_parallel=width,
        temperature=0,
    )

    def threads(prompts: Sequence[str], count: int) -> int:
        """One call per prompt, from as many threads: as a service is asked."""
        ready = Barrier(len(prompts))

        def ask(prompt: str) -> int:
            ready.wait()
            result = llm.generate([prompt], max_tokens=count, min_new_tokens=count)
            return int((result.llm_output or {})["token_usage"]["completion_tokens"])

        with ThreadPoolExecutor(len(prompts)) as pool:
            return sum(pool.map(ask, prompts))

    def batch(prompts: Sequence[str], count: int) -> int:
        result = llm.generate(list(prompts), max_tokens=count, min_new_tokens=count)
        return int((result.llm_output or {})["token_usage"]["completion_tokens"])

    return [
        peer("HuggingFacePipeline"),
        peer(f"HuggingFacePipeline, batch_size={width}", batch_size=width),
        Writer("GPULLM(transformers)", batch),
        Writer("GPULLM(transformers), a thread per prompt", threads),
    ], llm


def unpack(file: Path, folder: Path) -> Path:
    """Write a `.gguf` file as safetensors in bfloat16, for those who read nothing else."""
    loaded = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


__all__ = ["Answer", "Streamer", "Writer", "llama_cpp", "transformers", "unpack"]
