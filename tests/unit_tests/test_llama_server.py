"""The llama.cpp server in this process: damaged files, closed doors, shared weights."""

from __future__ import annotations

import gc
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu.llama import endpoint, shared
from langchain_gpu.llama.checks import check_gguf
from langchain_gpu.llama.errors import LlamaError, ModelLoadError
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings
from langchain_gpu.llama.shared import running_server, shared_server
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.tiny_gguf import gguf

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
HELLO = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 5}


def settings(path: Path) -> LlamaSettings:
    return LlamaSettings(
        path=path, n_ctx=256, n_parallel=2, n_gpu_layers=0, main_gpu=0, n_threads=1, cores=1
    )


@pytest.fixture(scope="module")
def weights() -> Path:
    return resolve(SMOLLM2, kind="gguf").path


@pytest.fixture
def server(weights: Path) -> LlamaServer:
    return shared_server(settings(weights))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file"),
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 a zip file", "not a GGUF file"),
        (b"GGUF\x09\0\0\0", "GGUF version 9 is not known"),
        (b"GGUF\x03\0\0\0" + os.urandom(5000), "could not load this file of 5,008 bytes"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 100, "could not load"),
    ],
)
def test_what_is_no_model_is_refused_by_name(
    content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=complaint) as caught:
        LlamaServer(settings(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "count"),
    [("block_count", 0), ("block_count", 4_000_000_000), ("context_length", 0)],
)
def test_a_count_that_would_end_the_process_is_refused(
    key: str, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.gguf"
    facts = {"general.architecture": "llama", f"llama.{key}": count}
    path.write_bytes(gguf(facts, {"token_embd.weight": (0, (32, 32))}))
    with pytest.raises(ModelLoadError, match=rf"damaged\.gguf: .* its {key} is {count:,}"):
        LlamaServer(settings(path))


@pytest.mark.models
@pytest.mark.parametrize("part", [0.00001, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_and_the_process_lives(
    part: float, weights: Path, tmp_path: Path
) -> None:
    whole = weights.read_bytes()
    path = tmp_path / "truncated.gguf"
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(ModelLoadError, match=r"truncated\.gguf.*incomplete or damaged"):
        LlamaServer(settings(path))


@pytest.mark.models
def test_a_failed_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(ModelLoadError):
        LlamaServer(settings(path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.models
def test_the_folder_of_a_process_that_was_killed_goes_with_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # short enough for the path of a socket
        monkeypatch.setattr(tempfile, "tempdir", folder)
        places = {}
        with socket.socket(socket.AF_UNIX) as living:
            for name in ("killed", "alive", "starting"):
                place = Path(folder) / f"langchain-gpu-{name}" / "llama.sock"
                place.parent.mkdir()
                listener = living if name == "alive" else socket.socket(socket.AF_UNIX)
                listener.bind(str(place))
                if name == "starting":
                    listener.close()  # bound, and nobody listens: so is one that just begins
                else:
                    listener.listen()
                    os.utime(place, (0, 0))
                if name == "killed":
                    listener.close()
                places[name] = place
            other = Path(folder) / "langchain-gpu-other"
            other.mkdir()
            endpoint.Endpoint().close()
            assert [name for name, place in places.items() if place.exists()] == [
                "alive",
                "starting",
            ]
            assert other.exists()


def test_it_answers_tokenizes_and_knows_its_model(server: LlamaServer) -> None:
    chunks: list[dict[str, Any]] = []

    def hear(chunk: dict[str, Any]) -> bool:
        chunks.append(chunk)
        return False

    server.chat(HELLO, hear)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert server.n_ctx == 256
    assert not server.knows_tools
    assert len(server.tokenize("hello world")) == 2
    assert "Say hello." in server.prompt(HELLO)


@pytest.mark.models
def test_the_socket_lies_in_a_folder_of_this_user_only(server: LlamaServer) -> None:
    assert server._endpoint.path is not None
    assert stat.S_IMODE(server._endpoint.path.parent.stat().st_mode) == 0o700
    assert server._native.listening_address == f"unix://{server._endpoint.path}"


@pytest.mark.models
@pytest.mark.usefixtures("socket_enabled")  # the loopback
def test_without_unix_sockets_a_random_key_guards_the_port(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_SOCKET_PATH", 0)
    server = LlamaServer(settings(weights))
    assert server._native.listening_address.startswith("http://127.0.0.1:")
    assert len(server.tokenize("hello world")) == 2
    server._endpoint._key = "guessed"
    with pytest.raises(LlamaError, match="Invalid API Key"):
        server.tokenize("hello world")


@pytest.mark.models
def test_an_exception_of_the_callback_comes_through(server: LlamaServer) -> None:
    def broken(_: dict[str, Any]) -> bool:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        server.chat(HELLO, broken)


@pytest.mark.models
def test_an_error_of_llama_cpp_is_raised(server: LlamaServer) -> None:
    with pytest.raises(LlamaError, match="max_tokens") as caught:
        server.chat({**HELLO, "max_tokens": -5}, lambda _: False)
    assert caught.value.details["code"] == 400


@pytest.mark.models
def test_the_window_is_never_larger_than_the_models_own(weights: Path) -> None:
    large = replace(settings(weights), n_ctx=10_000, n_parallel=1)
    assert LlamaServer(large).n_ctx == 8192


@pytest.mark.models
def test_the_same_settings_share_one_server_and_the_last_user_frees_it(weights: Path) -> None:
    wanted = replace(settings(weights), n_ctx=300)
    first, second = shared_server(wanted), shared_server(replace(wanted))
    assert first is second
    assert shared_server(replace(wanted, n_ctx=310)) is not first
    assert first._endpoint.path is not None
    folder = first._endpoint.path.parent
    del first
    gc.collect()
    assert folder.exists()
    del second
    gc.collect()
    assert not folder.exists()


@pytest.mark.models
@pytest.mark.parametrize("find", [shared_server, running_server])
def test_a_running_server_is_found_while_another_starts(
    server: LlamaServer,
    find: Callable[[LlamaSettings], LlamaServer | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def start(wanted: LlamaSettings) -> LlamaServer:
        begun.set()
        assert go_on.wait(60)
        return LlamaServer(wanted)

    monkeypatch.setattr(shared, "LlamaServer", start)
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(shared_server, replace(server.settings, n_ctx=320))
        try:
            assert begun.wait(20)
            assert pool.submit(find, server.settings).result(timeout=20) is server
        finally:
            go_on.set()
        assert other.result() is not server


@pytest.mark.models
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("find", [shared_server, running_server])
def test_a_forked_process_does_not_share_it(
    server: LlamaServer, find: Callable[[LlamaSettings], LlamaServer | None]
) -> None:
    """Its threads stayed behind: a chat would wait forever."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(find(server.settings))
        except RuntimeError as error:
            said = str(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        assert f"loaded in process {os.getpid()}" in answer.read()
    assert find(server.settings) is server


_FORKS = """
import atexit, gc, os, sys, time
from dataclasses import replace
from pathlib import Path
from langchain_gpu.llama.server import LlamaServer
from tests.unit_tests.test_llama_server import settings

wanted = settings(Path(sys.argv[1]))
server = LlamaServer(wanted)
if not (child := os.fork()):
    try:
        LlamaServer(replace(wanted, n_ctx=300))
    except RuntimeError as error:
        print(error, flush=True)
    if sys.argv[2] == "dropped":
        del server
        gc.collect()
    else:
        atexit._run_exitfuncs()
    os._exit(3)
for _ in range(200):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
    sys.exit("the child does not end")
print(os.waitstatus_to_exitcode(status), len(server.tokenize("hello")))
"""


@pytest.mark.models
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("how", ["dropped", "exits"])
def test_a_forked_process_ends_and_leaves_the_server_to_its_parent(how: str, weights: Path) -> None:
    # Python warns of every fork since 3.12.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKS, str(weights), how]
    done = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, timeout=60
    )
    refused, _, ended = done.stdout.partition("\n")
    assert "this one was forked from it" in refused  # freeing another one would abort the process
    assert (ended.strip(), done.stderr) == ("3 1", "")


@pytest.mark.models
def test_it_is_silent_and_a_process_with_a_running_chat_ends(weights: Path) -> None:
    script = f"""
from pathlib import Path
from langchain_gpu.generators.llama_cpp import LlamaCppGenerator
from langchain_gpu.generators.base import Request
from langchain_gpu.generators.registry import Options
generator = LlamaCppGenerator(Path({str(weights)!r}), Options(n_ctx=512, n_parallel=1, n_threads=1))
request = Request(messages=[{{"role": "user", "content": "Tell a long story."}}])
stream = generator.stream(request)
next(stream)
print("begun")
"""
    done = subprocess.run(  # noqa: S603  this interpreter, the script above
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("begun\n", "")


def test_a_whole_file_passes_the_first_look(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0")
    check_gguf(path)
