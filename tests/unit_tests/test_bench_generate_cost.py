"""What stands between a caller and llama.cpp, counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from benchmarks import generate_cost
from langchain_gpu import ChatGPU
from langchain_gpu.generators.llama_cpp import LlamaCppGenerator
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.models.resolve import resolve

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatGPU]:
    file = resolve("HuggingFaceTB/SmolLM2-135M-Instruct", kind="gguf").path
    with ChatGPU(
        model=str(file), backend="llama_cpp", device="cpu", n_ctx=128, n_parallel=1, n_threads=1
    ) as made:
        yield made


@pytest.fixture
def server(chat: ChatGPU) -> LlamaServer:
    with chat._hold() as generator:
        assert isinstance(generator, LlamaCppGenerator)
        return generator._open


def test_a_stream_is_one_thread_and_no_further_request(chat: ChatGPU, server: LlamaServer) -> None:
    list(chat.stream("Hi", max_tokens=1))
    with generate_cost.counted(server) as counts:
        for _ in range(3):
            assert list(chat.stream("Hi", max_tokens=2))
    assert counts == {"threads": 3, "requests": 0}


async def test_a_task_that_streams_is_one_thread_too(
    chat: ChatGPU, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [piece async for piece in chat.astream("Hi", max_tokens=1)]
    names: list[str] = []
    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    assert [piece async for piece in chat.astream("Hi", max_tokens=2)]
    assert (await chat.ainvoke("Hi", max_tokens=2)).content
    ours = [name for name in names if name.startswith("langchain-gpu")]
    assert ours == ["langchain-gpu-stream"] * 2


def test_what_is_started_and_asked_is_counted(server: LlamaServer) -> None:
    start = threading.Thread.start
    with generate_cost.counted(server) as counts:
        assert server.tokenize("two requests")
        assert server.tokenize("and one thread")
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join(5)
    assert counts == {"threads": 1, "requests": 2}
    assert threading.Thread.start is start
    assert server.tokenize("again")
    assert counts["requests"] == 2


def test_a_replay_is_an_answer_and_the_engine_comes_back(
    chat: ChatGPU, server: LlamaServer
) -> None:
    native = server._native
    replay = generate_cost.Replay(server)
    replay.chunks = 5
    server._native = replay
    try:
        pieces = list(chat.stream("Hi"))
    finally:
        server._native = native
    texts = [piece.content for piece in pieces if piece.content]
    assert len(texts) == 5
    assert len(set(texts)) == 1
    usage = pieces[-1].usage_metadata
    assert usage is not None
    assert usage["output_tokens"] == 2
    found = generate_cost.measure(chat, rounds=1)
    assert server._native is native
    assert [row["name"] for row in found["rows"]] == [
        "LangChain's base class, stream",
        "LangChain's base class, astream",
        "ChatGPU.stream",
        "ChatGPU.astream",
    ]
    assert (found["threads"], found["requests"]) == (1, 0)
