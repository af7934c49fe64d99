"""Our settings as llama.cpp's parameters."""

from __future__ import annotations

from typing import Any

import xllamacpp

from langchain_gpu.hardware.idle import free_cores
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.models.ggml_types import CACHE_TYPES

_POOLINGS = {
    "mean": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
    "cls": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_CLS,
    "last": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST,
    "rank": xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK,
}


def parameters(settings: LlamaSettings) -> Any:
    """Return the `xllamacpp.CommonParams` of a server; where it listens is not yet said.

    Raises:
        ValueError: The type of the KV cache is not known.
    """
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
        raise ValueError(f"cache type {name!r} is not one of {', '.join(CACHE_TYPES)}")
    return getattr(xllamacpp.ggml_type, f"GGML_TYPE_{CACHE_TYPES[name].name}")


__all__ = ["parameters"]
