"""Real servers on loopback ports, started for a while and stopped after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LIFETIME = 1500  # seconds after which a server ends even if whoever started it was killed
READY = 400  # seconds a server may take to start on a busy machine
OLLAMA = "ollama/ollama"
VLLM = "vllm/bin/python"


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


@contextmanager
def serve(
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    health: str,
    log: Path,
    *,
    lifetime: int = LIFETIME,
) -> Iterator[Running]:
    """Run a server until the block ends; whatever it started ends with it, and so do its files.

    Raises:
        RuntimeError: It did not start; the message has the end of its log.
    """
    # Not the log's folder: servers put sockets there, and a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="server-", ignore_cleanup_errors=True) as scratch:
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - our own command
                ["timeout", "--foreground", "--kill-after=10", str(lifetime), *command],  # noqa: S607
                env={**os.environ, **environment, "TMPDIR": scratch},
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


@contextmanager
def ollama(
    servers: Path,
    work: Path,
    models: Mapping[str, str],
    *,
    threads: int = 1,
    slots: int | None = None,
    lifetime: int = LIFETIME,
) -> Iterator[Running]:
    """Run Ollama.

    Args:
        servers: Folder that holds it.
        work: Empty folder for its models and its log.
        models: Modelfiles by the models' names.
        threads: Of a model. More than there are free cores spin.
        slots: Chats it works on at the same time; None leaves that to Ollama.
        lifetime: Seconds after which it ends in any case.

    Raises:
        RuntimeError: It did not start, or did not take a model.
    """
    port = free_port()
    environment = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(work / "models"),
        "HOME": str(work),
    }
    if slots is not None:
        environment["OLLAMA_NUM_PARALLEL"] = str(slots)
    program = str(servers / OLLAMA)
    command, log = [program, "serve"], work / "log"
    with serve(command, environment, port, "/api/version", log, lifetime=lifetime) as server:
        for name, text in models.items():
            recipe = work / "Modelfile"
            recipe.write_text(f"{text}PARAMETER num_thread {threads}\n")
            made = subprocess.run(  # noqa: S603
                [program, "create", name, "-f", str(recipe)],
                env={**os.environ, **environment},
                check=False,
                capture_output=True,
                timeout=120,
            )
            if made.returncode:
                end = made.stderr[-500:].decode(errors="replace")
                raise RuntimeError(f"Ollama did not take the model {name}: {end}")
        yield server


@contextmanager
def vllm(
    servers: Path, work: Path, model: Path, name: str, *options: str, lifetime: int = LIFETIME
) -> Iterator[Running]:
    """Run vLLM on the CPU with one model.

    Args:
        servers: Folder that holds it.
        work: Empty folder for its cache and its log.
        model: Folder of the model.
        name: What the server calls it.
        *options: More options of its command line.
        lifetime: Seconds after which it ends in any case.

    Raises:
        RuntimeError: It did not start.
    """
    port = free_port()
    command = [
        str(servers / VLLM),
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
    log = work / "log"
    with serve(command, environment, port, "/health", log, lifetime=lifetime) as server:
        yield server


@contextmanager
def paced(
    work: Path, tokens: int, first: float, pace: float, *, lifetime: int = LIFETIME
) -> Iterator[Running]:
    """Run a server that answers at a steady pace, without a model.

    Args:
        work: Empty folder for its log.
        tokens: Of an answer.
        first: Seconds from a request to its first token.
        pace: Seconds from one to the next.
        lifetime: Seconds after which it ends in any case.

    Raises:
        RuntimeError: It did not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.paced", str(port), str(tokens)]
    command += [str(first), str(pace)]
    root = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with serve(command, root, port, "/api/version", work / "log", lifetime=lifetime) as server:
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


__all__ = ["OLLAMA", "VLLM", "Running", "free_port", "ollama", "paced", "serve", "vllm"]
