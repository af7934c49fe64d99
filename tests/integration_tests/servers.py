"""Real servers on loopback ports, started for a test and stopped after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from langchain_gpu.models.resolve import resolve

LIFETIME = 1500  # seconds after which a server ends even if the tests were killed
READY = 400  # seconds a server may take to start on a busy machine


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        url: Where.
        log: What it prints.
        process: Its first process, which leads a group of its own.
    """

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


def folder() -> Path:
    """Where `.ci/servers.sh` put them; skips where it did not run."""
    default = Path(__file__).parents[2] / ".servers"
    servers = Path(os.environ.get("LANGCHAIN_GPU_SERVERS", default))
    if not (servers / "vllm" / ".stamp").is_file():
        pytest.skip(f"no servers in {servers}; run .ci/servers.sh, or set LANGCHAIN_GPU_SERVERS")
    return servers


@contextmanager
def serve(
    command: Sequence[str], environment: Mapping[str, str], port: int, health: str, log: Path
) -> Iterator[Running]:
    """Run a server until the block ends; whatever it started ends with it."""
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own command
            ["timeout", "--foreground", "--kill-after=10", str(LIFETIME), *command],  # noqa: S607
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url + health, process, log)
        yield Running(url, log, process)
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, how)
                process.wait(20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


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
    servers, port = folder(), free_port()
    models = models or {"minilm": f"FROM {servers}/gguf/minilm.gguf\n"}
    environment = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(work / "models"),
        "HOME": str(work),
    }
    program = str(servers / "ollama" / "ollama")
    with serve([program, "serve"], environment, port, "/api/version", work / "log") as server:
        for name, text in models.items():
            recipe = work / "Modelfile"
            # More threads than there are free cores spin: one is enough for a test.
            recipe.write_text(f"{text}PARAMETER num_thread 1\n")
            subprocess.run(  # noqa: S603
                [program, "create", name, "-f", str(recipe)],
                env={**os.environ, **environment},
                check=True,
                capture_output=True,
                timeout=120,
            )
        yield server


@contextmanager
def vllm(work: Path, model: Path, name: str) -> Iterator[Running]:
    """Run vLLM on the CPU with one model that embeds or ranks."""
    with _vllm(work, model, name, "--runner", "pooling", "--dtype", "float32") as server:
        yield server


@contextmanager
def vllm_chat(work: Path) -> Iterator[Running]:
    """Run vLLM on the CPU with the model `qwen`, which chats and calls tools."""
    window = ("--dtype", "bfloat16", "--max-model-len", "4096")
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with _vllm(work, folder() / "qwen-dense", "qwen", *window, *tools) as server:
        yield server


@contextmanager
def _vllm(work: Path, model: Path, name: str, *options: str) -> Iterator[Running]:
    port = free_port()
    command = [
        str(folder() / "vllm" / "bin" / "python"),
        *("-m", "vllm.entrypoints.openai.api_server", *options),
        *("--model", str(model), "--served-model-name", name),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
    ]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(work / "cache"),
    }
    with serve(command, environment, port, "/health", work / "log") as server:
        yield server


def free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    end = log.read_bytes()[-2000:].decode(errors="replace")
    raise RuntimeError(f"the server at {url} did not start:\n{end}")
