"""What other classes and tools call the settings and back ends of embedders and rerankers.

Each table says what to write here for a name from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

_PLACE = "base_url=..., the server's address"
_SERVERS = (
    *("vllm", "sglang", "infinity", "nim", "openllm", "localai", "lmstudio", "xinference"),
    *("tei", "text-embeddings-inference", "llama-server", "llama_server", "llamafile"),
)
_DEVICES = ("cuda", "rocm", "xpu", "mps", "cpu")
_GPU = "device='cuda', or nothing: a GPU is taken where there is one"
_IN_MODEL_KWARGS = (
    *("revision", "token", "local_files_only"),
    *("prompts", "default_prompt_name", "processor_kwargs", "tokenizer_kwargs", "config_kwargs"),
)
_UNSAMPLED = (
    *("temperature", "top_k", "top_p", "tfs_z", "repeat_penalty", "repeat_last_n"),
    *("mirostat", "mirostat_eta", "mirostat_tau"),
)

# Arguments of sentence-transformers' classes, and of LangChain's for servers and for the hub.
ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(("model_id", "model_path", "model_name_or_path", "repo_id"), "model=..."),
    "batch_size": "max_batch_tokens=..., or nothing: batches are measured out in tokens",
    "torch_dtype": "dtype=...",
    **dict.fromkeys(("use_fp16", "fp16", "half"), "dtype='float16'"),
    **dict.fromkeys(("gpu", "use_gpu", "use_cuda", "cuda", "gpu_id"), _GPU),
    **dict.fromkeys(("truncate", "truncation"), "on_long=..."),
    "trust_remote_code": "model_kwargs={'trust_remote_code': True, 'revision': ...}",
    **{name: f"model_kwargs={{{name!r}: ...}}" for name in _IN_MODEL_KWARGS},
    **{
        name: f"model_kwargs={{'model_kwargs': {{{name!r}: ...}}}}"
        for name in ("attn_implementation", "quantization_config")
    },
    **dict.fromkeys(("cache_dir", "download_dir"), "cache_folder=..."),
    **dict.fromkeys(("openai_api_base", "endpoint_url", "inference_server_url"), "base_url=..."),
    "openai_api_key": "api_key=...",
    "huggingfacehub_api_token": "model_kwargs={'token': ...}, or api_key=... for a server",
    "request_timeout": "timeout=..., in seconds",
    **dict.fromkeys(
        ("client_kwargs", "async_client_kwargs", "sync_client_kwargs"),
        "timeout=... or api_key=...",
    ),
    "validate_model_on_init": "leave it out: the model is looked for at its first use",
    "verbose": "leave it out, or say on_event=... to be told of batches and fallbacks",
}

# Arguments of OllamaEmbeddings, OpenAIEmbeddings, LlamaCppEmbeddings and HuggingFaceBgeEmbeddings.
EMBEDDING: Mapping[str, str] = {
    "dimensions": "truncate_dim=...",
    "normalize": "encode_kwargs={'normalize_embeddings': True}",
    "quantization": "dtype='int8'",
    "chunk_size": "encode_kwargs={'batch_size': ...}",
    **dict.fromkeys(
        ("max_length", "max_seq_length"),
        "model_kwargs={'processor_kwargs': {'model_max_length': ...}}",
    ),
    **{
        name: f"encode_kwargs={{{name!r}: ...}}"
        for name in ("normalize_embeddings", "prompt", "prompt_name")
    },
    "embed_instruction": "encode_kwargs={'prompt': ...}",
    "query_instruction": "query_encode_kwargs={'prompt': ...}",
    **{
        name: f"model_kwargs={{{name!r}: ...}}"
        for name in ("n_ctx", "n_gpu_layers", "n_threads", "keep_alive")
    },
    **{
        name: f"model_kwargs={{'options': {{{name!r}: ...}}}}"
        for name in ("num_ctx", "num_gpu", "num_thread")
    },
    **dict.fromkeys(
        ("check_embedding_ctx_length", "tiktoken_enabled", "tiktoken_model_name"),
        "leave it out: a server is sent texts, no token ids",
    ),
    **dict.fromkeys(_UNSAMPLED, "leave it out: nothing is sampled for a vector"),
}

# Arguments of NVIDIARerank and FlagReranker.
RERANKING: Mapping[str, str] = {
    "default_activation_function": "activation=...",
    "normalize": "activation='sigmoid'",
    "max_batch_size": "max_batch_tokens=..., or nothing: batches are measured out in tokens",
}

_BACKENDS = {
    **dict.fromkeys(
        ("llama.cpp", "llama-cpp", "llamacpp", "llama-cpp-python", "llama_cpp_python", "gguf"),
        "backend='llama_cpp'",
    ),
    **dict.fromkeys(
        ("pytorch", "transformers", "sentence-transformers", "sentence_transformers"),
        "backend='torch'",
    ),
    **dict.fromkeys(("huggingface", "hf", "safetensors"), "backend='torch'"),
    **dict.fromkeys(("onnxruntime", "ort"), "backend='onnx'"),
    "gpu": _GPU,
    **{name: f"device={name!r}" for name in _DEVICES},
}
EMBEDDING_BACKENDS: Mapping[str, str] = {
    **_BACKENDS,
    **dict.fromkeys(_SERVERS, f"backend='openai' and {_PLACE}"),
}
RERANKING_BACKENDS: Mapping[str, str] = {
    **_BACKENDS,
    **dict.fromkeys((*_SERVERS, "openai"), f"{_PLACE}, and no backend"),
    "ollama": "backend='llama_cpp' and model=..., a .gguf file: Ollama has no route for reranking",
}

__all__ = ["ARGUMENTS", "EMBEDDING", "EMBEDDING_BACKENDS", "RERANKING", "RERANKING_BACKENDS"]
