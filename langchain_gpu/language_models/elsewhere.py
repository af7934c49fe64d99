"""What other classes and tools call the settings and engines of chat and completion models.

Each table says what to write here for a name from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

_IN_MODEL_KWARGS = (
    *("top_k", "min_p", "typical_p", "do_sample", "logprobs", "top_logprobs"),
    *("repeat_penalty", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("logit_bias", "extra_body", "grammar", "repeat_last_n", "tfs_z"),
    *("mirostat", "mirostat_eta", "mirostat_tau", "no_repeat_ngram_size", "bad_words_ids"),
    *("reasoning_effort", "ignore_eos"),
)
_IN_LOAD_KWARGS = (
    *("default_headers", "default_query"),
    *("attn_implementation", "device_map", "max_memory", "quantization_config"),
    *("revision", "token"),
)

_GPU = "device='cuda', or nothing: a GPU is taken where there is one"

# Arguments of ChatOllama, ChatOpenAI, ChatLlamaCpp, ChatHuggingFace, HuggingFacePipeline,
# HuggingFaceEndpoint and VLLM.
ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(("model_id", "model_path", "model_name_or_path", "repo_id"), "model=..."),
    **dict.fromkeys(("llm", "pipeline"), "model=..., its name"),
    **dict.fromkeys(("num_ctx", "max_model_len", "max_length"), "n_ctx=..."),
    **dict.fromkeys(("context_length", "context_window", "max_seq_length"), "n_ctx=..."),
    **dict.fromkeys(("max_completion_tokens", "max_new_tokens", "num_predict"), "max_tokens=..."),
    **dict.fromkeys(("openai_api_base", "server_url"), "base_url=..."),
    **dict.fromkeys(("endpoint_url", "inference_server_url"), "base_url=..."),
    "request_timeout": "timeout=..., in seconds",
    **dict.fromkeys(
        ("client_kwargs", "async_client_kwargs", "sync_client_kwargs"),
        "timeout=... or api_key=...",
    ),
    "num_gpu": "n_gpu_layers=...",
    "num_thread": "n_threads=...",
    "batch_size": "n_parallel=...",
    "openai_api_key": "api_key=...",
    "huggingfacehub_api_token": "load_kwargs={'token': ...}, or api_key=... for a server",
    "stop_sequences": "stop=...",
    "torch_dtype": "dtype=...",
    **dict.fromkeys(("fp16", "half"), "dtype='float16'"),
    **dict.fromkeys(("gpu", "use_gpu", "use_cuda", "cuda", "gpu_id"), _GPU),
    "format": "model_kwargs={'format': ...}, or with_structured_output(...) of ChatGPU",
    "grammar_path": "model_kwargs={'grammar': its text}",
    "last_n_tokens_size": "model_kwargs={'repeat_last_n': ...}",
    "reasoning": "model_kwargs={'think': ...}",
    "pipeline_kwargs": "model_kwargs={...}",
    "n": "batch([prompt] * n): a call gives one answer",
    "trust_remote_code": "load_kwargs={'trust_remote_code': True, 'revision': ...}",
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "load_kwargs={'quantization_config': ...}"),
    "tokenizer": "load_kwargs={'tokenizer': ...} with backend='triton'; others have the model's",
    **dict.fromkeys(
        ("tensor_parallel_size", "vllm_kwargs"), "base_url=..., of a vLLM that is started with it"
    ),
    **dict.fromkeys(
        ("cache_dir", "cache_folder", "download_dir"),
        "set HF_HUB_CACHE in the environment, for all models of the hub",
    ),
    **dict.fromkeys(
        ("lora_path", "lora_base"), "leave it out, and merge the adapter into the model's file"
    ),
    "f16_kv": "leave it out: the KV cache is in float16, unless load_kwargs={'cache_dtype': ...}",
    **dict.fromkeys(
        ("cache_dtype", "cache_type_k", "cache_type_v", "type_k", "type_v"),
        "load_kwargs={'cache_dtype': ...} with backend='llama_cpp'",
    ),
    "verbosity": "leave it out: only OpenAI's own models know it",
    "n_batch": "leave it out: its size is chosen here",
    "stream_usage": "leave it out: tokens are always counted",
    "task": "leave it out: ChatGPU answers chats, GPULLM continues prompts",
    "return_full_text": "leave it out: an answer is the new text alone",
    "validate_model_on_init": "leave it out: the model is looked for at its first use",
    **{name: f"model_kwargs={{{name!r}: ...}}" for name in _IN_MODEL_KWARGS},
    **{name: f"load_kwargs={{{name!r}: ...}}" for name in _IN_LOAD_KWARGS},
}

_DEVICES = ("cuda", "rocm", "xpu", "mps", "cpu")
_SERVERS = (
    *("vllm", "sglang", "nim", "openllm", "localai", "lmstudio", "xinference", "litellm"),
    *("tgi", "text-generation-inference", "llama-server", "llama_server", "llamafile"),
)
BACKENDS: Mapping[str, str] = {
    **dict.fromkeys(_SERVERS, "backend='openai' and base_url=..., the server's address"),
    **dict.fromkeys(
        ("llama.cpp", "llama-cpp", "llamacpp", "llama-cpp-python", "llama_cpp_python", "gguf"),
        "backend='llama_cpp'",
    ),
    **dict.fromkeys(
        ("torch", "pytorch", "huggingface", "hf", "safetensors"), "backend='transformers'"
    ),
    **dict.fromkeys(
        ("openvino", "onnx", "onnxruntime"), "backend='transformers', or 'llama_cpp' for GGUF"
    ),
    "gpu": _GPU,
    **{name: f"device={name!r}" for name in _DEVICES},
}

__all__ = ["ARGUMENTS", "BACKENDS"]
