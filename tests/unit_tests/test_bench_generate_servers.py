"""Writing text through servers: who asks what, and who is left out with which reason."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from benchmarks import bench_generate, generate_clients, generate_parts
from benchmarks.generate_peers import Answer, Streamer
from benchmarks.generate_servers import (
    LeftOutError,
    Served,
    by_ollama,
    by_vllm,
    run_ollama,
    run_vllm,
    started,
)
from benchmarks.servers import Running, free_port, serve
from tests.unit_tests.chat_script import CHAT, chatting, says
from tests.unit_tests.scripted_ollama import FakeOllama
from tests.unit_tests.scripted_server import Asked, Reply, models, serving

ROOM: dict[str, Any] = {"slots": 2, "window": 160, "lifetime": 60}


def test_ollama_is_asked_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch, FakeOllama(models=["bench:latest"])) as server:
        direct = httpx.HTTPTransport(uds=str(server.path))
        streamers, chat = by_ollama("http://h:1", slots=2, window=160, transport=direct)
        with chat:
            answers = [who.stream("hi", 8) for who in streamers]
        bodies = [body for body in server.of("/api/chat") if body["messages"]]
    assert [who.name for who in streamers] == ["Ollama directly", "ChatGPU(ollama)"]
    for answer in answers:
        assert (len(answer.tokens), answer.written) == (2, 3)
        assert answer.start < answer.tokens[0] <= answer.tokens[1]
    # Other options would have Ollama load the model again.
    assert bodies[0]["options"] == bodies[1]["options"]
    assert bodies[0]["options"] == {"num_ctx": 160, "num_predict": 8, "temperature": 0}
    assert bodies[0]["messages"] == bodies[1]["messages"]


def test_vllm_is_asked_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def served(asked: Asked) -> Reply:
        return says("Hel", "lo.")

    with chatting(monkeypatch, served) as server:
        listed = server.script
        server.script = lambda asked: (
            models("bench", max_model_len=256) if asked.path == "/v1/models" else listed(asked)
        )
        direct = httpx2.HTTPTransport(uds=str(server.path))
        streamers, chat = by_vllm("http://h:1", slots=2, transport=direct)
        with chat:
            answers = [who.stream("hi", 8) for who in streamers]
        bodies = server.of(CHAT)
    for answer in answers:
        assert (len(answer.tokens), answer.written) == (2, 3)
    assert bodies[0] == bodies[1]
    assert bodies[0]["ignore_eos"] is True
    assert bodies[0]["max_tokens"] == 8


@pytest.mark.enable_socket
def test_clients_are_measured_beside_a_server_of_a_steady_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generate_clients, "_TOKENS", 3)
    monkeypatch.setattr(generate_clients, "_PACE", 0.01)
    found = generate_clients.measure([1, 2], rounds=1)
    names = ["openai", "ChatGPU(openai)", "ollama", "ChatGPU(ollama)"]
    assert [(row["concurrency"], row["name"]) for row in found["rows"]] == [
        (number, name) for number in (1, 2) for name in names
    ]
    for row in found["rows"]:
        assert (
            0 < row["late_ms"]["p50"] <= row["late_ms"]["p95"]
        )  # nobody hears of a piece before it was sent
        assert row["cpu_us_per_token"] > 0


def test_servers_that_are_missing_are_left_out(tmp_path: Path) -> None:
    chosen = bench_generate.options(["--servers", str(tmp_path / "none")])
    found = generate_parts.measure(["Ollama", "vLLM"], tmp_path / "m.gguf", chosen)
    assert found["servers"] == []
    assert [each["name"] for each in found["skipped"]] == ["Ollama", "vLLM"]
    for each in found["skipped"]:
        assert "in none" in each["reason"]
        assert ".ci/servers.sh" in each["reason"]


def test_what_was_measured_stays_when_a_server_fails_later() -> None:
    chosen = bench_generate.options(["--answers", "1"])

    def stream(prompt: str, count: int) -> Answer:
        if "number 1" in prompt:
            raise TimeoutError("too many\nat once")
        return Answer(1.0, [2.0])

    here = Served("Ollama 1", "m", [Streamer("Ollama directly", stream)])
    found = generate_parts.served("Ollama", nullcontext(here), chosen, [1, 2])
    assert [(each["name"], len(each["rows"])) for each in found["servers"]] == [("Ollama 1", 1)]
    assert found["skipped"] == [{"name": "Ollama after 1 at once", "reason": "too many"}]


def test_a_server_without_its_model_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "vllm" / "bin").mkdir(parents=True)
    (tmp_path / "vllm" / "bin" / "python").touch()
    with pytest.raises(LeftOutError, match="no qwen-dense in"), run_vllm(tmp_path, **ROOM):
        pass


@pytest.mark.enable_socket
def test_a_server_that_does_not_start_is_left_out_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "ollama" / "ollama"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho first\necho wrong CPU\nexit 3\n")
    program.chmod(0o755)
    with (
        pytest.raises(LeftOutError, match="Ollama did not start: wrong CPU"),
        run_ollama(tmp_path, tmp_path / "m.gguf", threads=1, **ROOM),
    ):
        pass


LITTERING = """
import http.server, sys, tempfile
print(tempfile.mkdtemp(), flush=True)
handler = http.server.SimpleHTTPRequestHandler
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""


@pytest.mark.enable_socket
@pytest.mark.parametrize("killed", [False, True])
def test_nothing_of_a_server_is_left_behind(tmp_path: Path, *, killed: bool) -> None:
    log, port = tmp_path / "log", free_port()
    command = [sys.executable, "-c", LITTERING, str(port)]
    with serve(command, {}, port, "/", log, lifetime=60) as running:
        litter = Path(log.read_text().splitlines()[0])
        assert litter.is_dir()
        if killed:
            running.kill()
    assert not litter.exists()
    assert not litter.parent.exists()


@pytest.mark.parametrize(("seconds", "expected"), [("0", LeftOutError), ("60", OSError)])
def test_a_server_that_ends_in_the_middle_costs_only_its_own_rows(
    tmp_path: Path, seconds: str, expected: type[Exception]
) -> None:
    with subprocess.Popen(["sleep", seconds]) as process:  # noqa: S603, S607 - our own
        running = Running("http://h:1", tmp_path / "log", process)
        if seconds == "0":
            process.wait(30)
        with pytest.raises(expected), started("Ollama", nullcontext(running)):
            raise OSError("connection reset")
        process.kill()
