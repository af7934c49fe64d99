"""The options of an engine, and those that engines in this process refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_gpu.events import Fallback, Listener
from langchain_gpu.models.ggml_types import CACHE_TYPES
from langchain_gpu.planner.terms import ComponentPlan
from langchain_gpu.servers.server import Server

# What finds a model's files on the hub: for the engines it is done with.
WHERE = ("revision", "token")
_DTYPES = ("float32", "bfloat16", "float16")
_LLAMA_CPP = ("cache_dtype", *WHERE)
# What `load_kwargs` may hold for transformers; all else would be lost or run code nobody has read.
_TRANSFORMERS = (
    "attn_implementation",
    "cache_implementation",
    "compile",
    "device_map",
    "experts_implementation",
    "max_memory",
    "offload_folder",
    "quantization_config",
    *WHERE,
    "trust_remote_code",
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may ask of an engine. None is the engine's own choice.

    Attributes:
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` and so on.
        dtype: What is computed in, or `"auto"`.
        fallback: What happens when the device cannot do it.
        n_ctx: Window of one chat in tokens.
        n_parallel: Chats at the same time.
        n_gpu_layers: Layers on the GPU.
        n_threads: CPU threads.
        keep_alive: How long a server keeps the model loaded after a call, in seconds or in its own
            words (`"5m"`); -1 forever.
        load: More arguments for loading the model, under the engine's own names.
        server: Where the model runs, if not in this process.
        plan: Where the model goes, by `planner.plan`; None has the engine plan for itself.
        listener: Is told of fallbacks.
    """

    device: str = "auto"
    dtype: str = "auto"
    fallback: Fallback = "cpu"
    n_ctx: int | None = None
    n_parallel: int | None = None
    n_gpu_layers: int | None = None
    n_threads: int | None = None
    keep_alive: float | str | None = None
    load: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold secrets
    server: Server = field(default_factory=Server)
    plan: ComponentPlan | None = None
    listener: Listener | None = None


def refuse(options: Options, backend: str, *names: str) -> None:
    """Raise ValueError if one of the named options is set: no option is ever ignored."""
    for name in names:
        value = getattr(options, name)
        if value not in (None, "auto"):
            raise ValueError(f"{name}={value!r} has no meaning for the back end {backend!r}")


def check_load(options: Options, backend: str, known: Iterable[str]) -> None:
    """Raise ValueError if `load_kwargs` hold what the back end does not know."""
    if unknown := sorted(set(options.load) - set(known)):
        raise ValueError(
            f"load_kwargs of the back end {backend!r} are {', '.join(known)}, not {unknown}"
        )


def check_llama_cpp(options: Options) -> None:
    """Look at what is asked of llama.cpp.

    Raises:
        ValueError: `dtype` is set, for a GGUF file brings its own, an option it does not have, or
            an unknown type of the KV cache.
    """
    refuse(options, "llama_cpp", "dtype")
    check_load(options, "llama_cpp", _LLAMA_CPP)
    cache = options.load.get("cache_dtype")
    if cache is not None and cache not in CACHE_TYPES:
        raise ValueError(f"cache_dtype={cache!r} is not one of {', '.join(CACHE_TYPES)}")


def check_transformers(options: Options) -> None:
    """Look at what is asked of transformers.

    Raises:
        ValueError: Unknown dtype, an option it does not have, or remote code without a pinned
            commit.
    """
    refuse(options, "transformers", "n_gpu_layers", "n_threads")
    if options.dtype != "auto" and options.dtype not in _DTYPES:
        known = ", ".join(["auto", *_DTYPES])
        raise ValueError(f"dtype {options.dtype!r} is not one of {known}")
    check_load(options, "transformers", _TRANSFORMERS)
    commit = str(options.load.get("revision", ""))
    if options.load.get("trust_remote_code") and not _COMMIT.fullmatch(commit):
        raise ValueError(
            "trust_remote_code runs only from a pinned commit: give revision= in load_kwargs with "
            "the full 40-digit commit you have read (a folder's: where it is from)"
        )


__all__ = [
    "Options",
    "check_llama_cpp",
    "check_load",
    "check_transformers",
    "refuse",
]
