"""Real servers on loopback ports, started for a test and stopped after it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import servers as real
from benchmarks.servers import Running, free_port, serve
from langchain_gpu.models.resolve import resolve
from tests.integration_tests.slow import SWITCH

_SLOW_LIFETIME = 7200  # seconds of a server that is waited for


def folder() -> Path:
    """Where `.ci/servers.sh` put them; skips where it did not run."""
    default = Path(__file__).parents[2] / ".servers"
    servers = Path(os.environ.get("LANGCHAIN_GPU_SERVERS", default))
    if not (servers / "vllm" / ".stamp").is_file():
        pytest.skip(f"no servers in {servers}; run .ci/servers.sh, or set LANGCHAIN_GPU_SERVERS")
    return servers


# Ollama makes no template of a GGUF file's own when it comes to tools. This is Qwen2.5's.
QWEN_TEMPLATE = """\
{{- if or .System .Tools }}<|im_start|>system
{{ .System }}
{{- if .Tools }}

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}
{{- range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>
{{ end }}
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""


def recipes() -> dict[str, str]:
    """Modelfiles of the models that chat: `smollm2`, and `qwen`, which knows tools."""
    small = resolve("HuggingFaceTB/SmolLM2-135M-Instruct", kind="gguf").path
    qwen = folder() / "qwen" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    return {
        "smollm2": f"FROM {small}\n",
        "qwen": f'FROM {qwen}\nTEMPLATE """{QWEN_TEMPLATE}"""\n',
    }


@contextmanager
def ollama(work: Path, models: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run Ollama with models by their Modelfiles; without any it has `minilm`."""
    models = models or {"minilm": f"FROM {folder()}/gguf/minilm.gguf\n"}
    lifetime = _SLOW_LIFETIME if SWITCH in os.environ else real.LIFETIME
    with real.ollama(folder(), work, models, lifetime=lifetime) as server:
        yield server


@contextmanager
def vllm(work: Path, model: Path, name: str) -> Iterator[Running]:
    """Run vLLM on the CPU with one model that embeds or ranks."""
    pooling = ("--runner", "pooling", "--dtype", "float32")
    with real.vllm(folder(), work, model, name, *pooling) as server:
        yield server


@contextmanager
def vllm_chat(work: Path) -> Iterator[Running]:
    """Run vLLM on the CPU with the model `qwen`, which chats and calls tools."""
    window = ("--dtype", "bfloat16", "--max-model-len", "4096")
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with real.vllm(folder(), work, folder() / "qwen-dense", "qwen", *window, *tools) as server:
        yield server


__all__ = ["Running", "folder", "free_port", "ollama", "recipes", "serve", "vllm", "vllm_chat"]
