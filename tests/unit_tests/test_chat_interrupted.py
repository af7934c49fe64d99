"""Ctrl-C while a batch runs: it ends soon, and what has not begun never begins."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import wraps
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.runnables import RunnableLambda

from langchain_gpu import GPULLM, ChatGPU
from langchain_gpu.generators import collector
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.llama.server import LlamaServer
from tests.unit_tests.chat_script import chat, chat_server, chunk
from tests.unit_tests.scripted_server import Endless, Reply, Scripted
from tests.unit_tests.tiny_chat import build_chat

PROMPTS: list[Any] = [f"hello {number}" for number in range(24)]
Press = Callable[[], None]
AtRest = Callable[[str], bool]

server = chat_server


def soon(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 20
    while not is_so():
        names = sorted(thread.name for thread in threading.enumerate())
        assert time.monotonic() < end, f"it never came about, with {names}"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a batch wait for all that was announced, however busy the machine is."""
    monkeypatch.setattr(collector, "_COMPANY_SECONDS", 2)


@pytest.fixture
def at_rest() -> AtRest:
    """Say whether no thread of a name is left that this test began."""
    before = set(threading.enumerate())

    def said(name: str) -> bool:
        return not any(each.name.startswith(name) for each in set(threading.enumerate()) - before)

    return said


@contextmanager
def pressed_after(begun: threading.Event, press: Press) -> Iterator[None]:
    """Ctrl-C is pressed while the main thread waits, once something has begun."""

    def run() -> None:
        begun.wait(20)
        time.sleep(0.1)  # the main thread has begun to wait
        press()

    thread = threading.Thread(target=run)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_chat(tmp_path_factory.mktemp("chat"))


def others() -> set[asyncio.Task[Any]]:
    """The tasks that run beside this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


class Forwards:
    """The forwards of a transformers model, which take a while."""

    def __init__(
        self, model: ChatGPU | GPULLM, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.03
    ) -> None:
        self.heights: list[int] = []
        self.begun = threading.Event()
        with model._hold() as generator:
            assert isinstance(generator, TransformersGenerator)
            loaded = generator._open.model
        forward = loaded.forward

        @wraps(forward)
        def slow(*args: Any, **kwargs: Any) -> Any:
            self.heights.append(len(kwargs["input_ids"]))
            self.begun.set()
            time.sleep(seconds)
            return forward(*args, **kwargs)

        monkeypatch.setattr(loaded, "forward", slow)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_batch_of_transformers_ends(
    path: str,
    *,
    streaming: bool,
    press_ctrl_c: Press,
    at_rest: AtRest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = InMemoryCache()
    with ChatGPU(model=path, device="cpu", max_tokens=90, streaming=streaming, cache=cache) as chat:
        forwards = Forwards(chat, monkeypatch)
        with pressed_after(forwards.begun, press_ctrl_c):
            chat.batch(PROMPTS)
        soon(lambda: at_rest("langchain-gpu"))
        assert len(forwards.heights) < 90
        assert set(forwards.heights) == {16}  # the other eight never came to their turn
        assert not cache._cache, "half an answer is none"
        monkeypatch.undo()
        assert chat.batch(PROMPTS[:2], max_tokens=2)


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM])
def test_answers_as_they_come_share_forwards_and_end(
    path: str, kind: type[ChatGPU | GPULLM], at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind(model=path, device="cpu", max_tokens=3) as model:
        forwards = Forwards(model, monkeypatch)
        answers = dict(model.batch_as_completed(PROMPTS))
        assert sorted(answers) == list(range(24))
        assert set(forwards.heights) == {16, 8}
        wrong: list[Any] = ["hello", 5]
        failed = dict(model.batch_as_completed(wrong, return_exceptions=True))
        assert isinstance(failed[1], ValueError)
        forwards.heights.clear()
        for _ in model.batch_as_completed(PROMPTS, max_tokens=30):
            break
        soon(lambda: at_rest("langchain-gpu"))
        assert len(forwards.heights) < 30 + 30  # what still waited was stopped


@pytest.mark.parametrize("kind", [ChatGPU, GPULLM])
async def test_answers_to_a_task_as_they_come_share_forwards_and_end(
    path: str, kind: type[ChatGPU | GPULLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind(model=path, device="cpu", max_tokens=3) as model:
        forwards = Forwards(model, monkeypatch)
        answers = {at: answer async for at, answer in model.abatch_as_completed(PROMPTS)}
        assert sorted(answers) == list(range(24))
        assert set(forwards.heights) == {16, 8}
        wrong: list[Any] = ["hello", 5]
        errors = model.abatch_as_completed(wrong, return_exceptions=True)
        assert isinstance(dict([each async for each in errors])[1], ValueError)
        forwards.heights.clear()
        left: Any = model.abatch_as_completed(PROMPTS, max_tokens=30)
        async with aclosing(left):
            await anext(left)
        assert others() == set()
        assert len(forwards.heights) < 30 + 30  # what still waited was stopped
        assert [each async for each in model.abatch_as_completed([])] == []


async def test_a_task_that_fails_or_is_canceled_ends_the_others(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatGPU(model=path, device="cpu", max_tokens=90) as chat:
        forwards = Forwards(chat, monkeypatch)
        with pytest.raises(ValueError, match="the list of messages is empty"):
            await chat.abatch([*PROMPTS, []])
        assert others() == set()
        batch = asyncio.create_task(chat.abatch(PROMPTS))
        await asyncio.to_thread(forwards.begun.wait, 20)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert others() == set()
        assert len(forwards.heights) < 90


def test_a_chain_ends_too(
    path: str, press_ctrl_c: Press, at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatGPU(model=path, device="cpu", max_tokens=90) as chat:
        forwards = Forwards(chat, monkeypatch)
        with pressed_after(forwards.begun, press_ctrl_c):
            (RunnableLambda(str) | chat).batch(PROMPTS)
        soon(lambda: at_rest("langchain-gpu"))
        assert len(forwards.heights) < 90


def test_prompts_whose_errors_are_returned_end_too(
    path: str, press_ctrl_c: Press, at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GPULLM(model=path, device="cpu", max_tokens=90) as llm:
        forwards = Forwards(llm, monkeypatch)
        with pressed_after(forwards.begun, press_ctrl_c):
            llm.batch(PROMPTS, return_exceptions=True)
        soon(lambda: at_rest("langchain-gpu"))
        assert len(forwards.heights) < 90


def test_one_that_fails_ends_the_others(
    path: str, at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatGPU(model=path, device="cpu", max_tokens=90) as chat:
        forwards = Forwards(chat, monkeypatch)
        with pytest.raises(ValueError, match="the list of messages is empty"):
            chat.batch([*PROMPTS, []])
        soon(lambda: at_rest("langchain-gpu"))
        assert len(forwards.heights) < 90


def test_a_batch_behind_a_server_ends(
    server: Scripted, press_ctrl_c: Press, at_rest: AtRest
) -> None:
    parts = Endless(chunk("a"), chunk("b"))
    server.script = chat(lambda _: Reply(parts=parts))
    settings: dict[str, Any] = {"base_url": "http://far.example", "n_parallel": 2}
    with ChatGPU(model="m", **settings) as model:
        with pressed_after(parts.begun, press_ctrl_c):
            model.batch(PROMPTS)
        assert server.left.wait(10), "nobody told the server"
        soon(lambda: at_rest("langchain-gpu-batch"))
        # Two at a time; a reader that the machine keeps from reading lends its slot to another.
        assert len(server.of("/v1/chat/completions")) < len(PROMPTS) // 2


@pytest.mark.models
def test_a_batch_of_llama_cpp_ends(
    press_ctrl_c: Press, at_rest: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    writing = threading.Event()
    chat_of_server = LlamaServer.chat

    def counted(self: LlamaServer, body: Any, on_chunk: Callable[[Any], bool]) -> None:
        begun.append(body["messages"][0]["content"])

        def told(found: dict[str, Any]) -> bool:
            writing.set()
            return on_chunk(found)

        chat_of_server(self, body, told)

    monkeypatch.setattr(LlamaServer, "chat", counted)
    model = "HuggingFaceTB/SmolLM2-135M-Instruct"
    settings: dict[str, Any] = {"device": "cpu", "n_ctx": 512, "n_parallel": 2}
    with ChatGPU(model=model, backend="llama_cpp", **settings) as chat:
        with pressed_after(writing, press_ctrl_c):
            chat.batch([f"Tell the longest story about {number}." for number in range(9)])
        soon(lambda: at_rest("langchain-gpu"))
        assert len(begun) == 2
        assert chat.invoke("Hello", max_tokens=2).content
