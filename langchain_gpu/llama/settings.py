"""The settings that identify a llama.cpp server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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


__all__ = ["LlamaSettings"]
