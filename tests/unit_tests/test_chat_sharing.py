"""Many chats on one `ChatGPU`: they share forwards, never mix, and do not disturb one another."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import FakeListChatModel
from langchain_core.rate_limiters import InMemoryRateLimiter

from langchain_gpu import ChatGPU
from langchain_gpu.generators import collector, hf_forward, hf_shared
from langchain_gpu.generators.base import Generator
from langchain_gpu.generators.registry import Choice, Options, create
from langchain_gpu.generators.transformers import TransformersGenerator
from langchain_gpu.language_models import base as loading
from tests.unit_tests.tiny_chat import build_chat

SETTINGS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "temperature": 0, "max_tokens": 6}
WORDS = [
    f"{word} {number}" for number in range(8) for word in ("a", "hello", "the longest of them")
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def chat(path: str) -> Iterator[ChatGPU]:
    with ChatGPU(model=path, **SETTINGS) as model:
        yield model


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a batch wait for all that was announced, however busy the machine is."""
    monkeypatch.setattr(collector, "_COMPANY_SECONDS", 2)


@pytest.fixture(scope="module")
def alone(chat: ChatGPU) -> dict[str, str]:
    return {text: str(chat.invoke(text).content) for text in WORDS}


class Forwards:
    """The rows of every forward of a model, which may be slowed down."""

    def __init__(self, chat: ChatGPU, monkeypatch: pytest.MonkeyPatch, seconds: float = 0) -> None:
        self.heights: list[int] = []
        self.begun = threading.Event()
        with chat._hold() as generator:
            assert isinstance(generator, TransformersGenerator)
            model = generator._open.model
        forward = model.forward

        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.heights.append(len(kwargs["input_ids"]))
            self.begun.set()
            threading.Event().wait(seconds)
            return forward(*args, **kwargs)

        monkeypatch.setattr(model, "forward", counted)


def test_a_batch_shares_forwards(
    chat: ChatGPU, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = Forwards(chat, monkeypatch)
    answers = chat.batch(WORDS)
    assert [answer.content for answer in answers] == [alone[text] for text in WORDS]
    assert len(forwards.heights) == 2 * 6  # 24 chats, 16 a batch, 6 tokens
    assert forwards.heights == [16] * 6 + [8] * 6


async def test_an_async_batch_shares_forwards(
    chat: ChatGPU, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = Forwards(chat, monkeypatch)
    answers = await chat.abatch(WORDS)
    assert [answer.content for answer in answers] == [alone[text] for text in WORDS]
    assert len(forwards.heights) == 2 * 6


def test_max_concurrency_of_the_config_is_kept(
    chat: ChatGPU, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = Forwards(chat, monkeypatch)
    answers = chat.batch(WORDS, config={"max_concurrency": 3})
    assert [answer.content for answer in answers] == [alone[text] for text in WORDS]
    assert max(forwards.heights) == 3
    listed = chat.batch(WORDS[:2], config=[{"tags": ["x"]}, {"tags": ["y"]}])
    assert [answer.content for answer in listed] == [alone[text] for text in WORDS[:2]]


def test_threads_tasks_and_streams_never_mix(chat: ChatGPU, alone: dict[str, str]) -> None:
    def ask(text: str) -> bool:
        return bool(chat.invoke(text).content == alone[text])

    def listen(text: str) -> bool:
        return "".join(chunk.text for chunk in chat.stream(text)) == alone[text]

    async def ask_async() -> list[bool]:
        answers = await asyncio.gather(*(chat.ainvoke(text) for text in WORDS))
        return [answer.content == alone[text] for answer, text in zip(answers, WORDS, strict=True)]

    with ThreadPoolExecutor(24) as pool:
        tasks = pool.submit(asyncio.run, ask_async())
        asked = [pool.submit(ask, text) for text in WORDS * 3]
        heard = [pool.submit(listen, text) for text in WORDS * 3]
        assert all(tasks.result())
        assert all(future.result() for future in (*asked, *heard))


def test_one_that_is_late_or_fails_leaves_the_others_alone(
    chat: ChatGPU, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Forwards(chat, monkeypatch, 0.05)
    late, fine = chat.bind(timeout=0.12, max_tokens=50), chat
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(late.invoke, "hello"),
            pool.submit(fine.invoke, WORDS[0]),
            pool.submit(fine.invoke, WORDS[1], logit_bias={}),
            pool.submit(fine.invoke, WORDS[2]),
        ]
        with pytest.raises(TimeoutError):
            futures[0].result()
        with pytest.raises(ValueError, match="logit_bias"):
            futures[2].result()
        assert futures[1].result().content == alone[WORDS[0]]
        assert futures[3].result().content == alone[WORDS[2]]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 3}])
def test_a_chat_that_comes_late_joins_those_that_run(
    chat: ChatGPU,
    alone: dict[str, str],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hf_forward, "_RUN_PER_READING", 0)  # at once, whatever reading took
    settings = {**settings, "max_tokens": 90}
    first = chat.invoke(WORDS[0], **settings)
    forwards = Forwards(chat, monkeypatch, 0.01)
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(chat.invoke, WORDS[0], **settings)
        assert forwards.begun.wait(10)
        late = chat.invoke(WORDS[1])
        assert not long.done()
        assert late.content == alone[WORDS[1]]
        assert long.result().content == first.content
    assert set(forwards.heights) == {1, 2}
    assert len(forwards.heights) == 90  # they joined: none was computed twice


def test_a_batch_is_left_once_it_has_run_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 7.9, 8.1, 8.1])  # the start; after the first token, which took a second
    monkeypatch.setattr(hf_forward, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    row = SimpleNamespace(prompt=[1] * 10, tokens=[])
    crowded = iter([True, False])
    leave = hf_forward._Leave([row], lambda: next(crowded))  # type: ignore[list-item]
    assert not leave()
    row.tokens = [1] * 10  # twice as much to read: two seconds, and four times that
    assert [leave(), leave(), leave()] == [False, True, False]


def test_a_full_batch_is_not_left(chat: ChatGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(chat, monkeypatch, 0.002)
    answers = chat.batch(WORDS, max_tokens=40)
    assert len(answers) == len(WORDS)
    assert forwards.heights == [16] * 40 + [8] * 40


async def test_a_canceled_task_leaves_the_others_alone(
    chat: ChatGPU, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = Forwards(chat, monkeypatch, 0.03)
    gone = asyncio.create_task(chat.ainvoke("hello", max_tokens=60))
    await asyncio.to_thread(forwards.begun.wait)
    stays = [asyncio.create_task(chat.ainvoke(text)) for text in WORDS[:3]]
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    answers = await asyncio.gather(*stays)
    assert [answer.content for answer in answers] == [alone[text] for text in WORDS[:3]]
    assert len(forwards.heights) < 60


def test_errors_of_a_batch_are_returned_where_they_belong(
    chat: ChatGPU, alone: dict[str, str]
) -> None:
    answers = chat.batch([WORDS[0], "x" * 1000, WORDS[1]], return_exceptions=True)
    assert answers[0].content == alone[WORDS[0]]
    assert isinstance(answers[1], ContextOverflowError)
    assert answers[2].content == alone[WORDS[1]]
    assert chat.batch([]) == []
    missing = ChatGPU(model="no/such-model")
    errors = missing.batch(["a", "b"], return_exceptions=True)
    assert [type(error).__name__ for error in errors] == ["ModelNotFoundError"] * 2


def test_two_objects_share_the_weights_and_the_last_frees_them(path: str) -> None:
    settings = {**SETTINGS, "n_parallel": 3}  # a model of their own
    first, second = ChatGPU(model=path, **settings), ChatGPU(model=path, **settings)
    answer = first.invoke("hello").content
    with first._hold() as one, second._hold() as two:
        assert isinstance(one, TransformersGenerator)
        assert isinstance(two, TransformersGenerator)
        assert one._open is two._open
        model = one._open
    first.close()
    assert second.invoke("hello").content == answer
    assert model.model is not None
    second.close()
    assert model.model is None
    assert model not in [shared.model for shared in hf_shared._models.values()]


def test_an_object_that_is_dropped_frees_its_model(path: str) -> None:
    chat = ChatGPU(model=path, **{**SETTINGS, "n_parallel": 5})
    chat.invoke("hello")
    with chat._hold() as generator:
        assert isinstance(generator, TransformersGenerator)
        model = generator._open
    del chat, generator
    for _ in range(500):  # the thread that wrote the answer lets go of it a little later
        gc.collect()
        if model.model is None:
            break
        threading.Event().wait(0.02)
    assert model.model is None


def test_an_idle_model_is_freed_and_comes_back(path: str) -> None:
    chat = ChatGPU(model=path, **{**SETTINGS, "n_parallel": 7}, keep_alive="20ms")
    answer = chat.invoke("hello").content
    for _ in range(500):
        if chat.loaded.keeper.loaded is None:
            break
        threading.Event().wait(0.02)
    assert chat.loaded.keeper.loaded is None
    assert chat.invoke("hello").content == answer
    chat.close()


def test_close_lets_those_who_chat_finish(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatGPU(model=path, **{**SETTINGS, "n_parallel": 9})
    answer = chat.invoke("hello").content
    forwards = Forwards(chat, monkeypatch, 0.03)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(chat.invoke, "hello")
        assert forwards.begun.wait(10)
        chat.close()
        assert future.result().content == answer
    assert chat.loaded.keeper.loaded is None


def test_langchains_own_manners_work(chat: ChatGPU, alone: dict[str, str]) -> None:
    other = FakeListChatModel(responses=["from the other"])
    missing = ChatGPU(model="no/such-model").with_fallbacks([chat, other])
    assert missing.invoke(WORDS[0]).content == alone[WORDS[0]]
    limiter = InMemoryRateLimiter(requests_per_second=1000, check_every_n_seconds=0.001)
    limited = chat.model_copy(update={"rate_limiter": limiter})
    assert limited.invoke(WORDS[0]).content == alone[WORDS[0]]
    cached = chat.model_copy(update={"cache": InMemoryCache()})
    first, second = cached.invoke(WORDS[0]), cached.invoke(WORDS[0])
    assert first.content == second.content == alone[WORDS[0]]
    assert cached.invoke(WORDS[0], max_tokens=2).content != first.content


def test_a_batch_has_the_model_loaded_once_even_where_that_fails(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    chat = ChatGPU(model=path, **SETTINGS)
    loads: list[int] = []

    def fail(*_: object) -> Generator:
        loads.append(1)
        lease = chat.loaded.keeper._lease
        while lease is not None and lease.users < len(WORDS):  # until all of them wait for it
            threading.Event().wait(0.001)
        raise TimeoutError("the server said nothing")

    monkeypatch.setattr(loading, "create", fail)
    errors = chat.batch(WORDS, return_exceptions=True)
    assert [str(error) for error in errors] == ["the server said nothing"] * len(WORDS)
    assert len(loads) == 1


async def test_while_it_is_loaded_the_threads_of_the_loop_are_free(
    monkeypatch: pytest.MonkeyPatch, path: str, alone: dict[str, str]
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    go = threading.Event()

    def slow(choice: Choice, options: Options) -> Generator:
        assert go.wait(20)
        return create(choice, options)

    monkeypatch.setattr(loading, "create", slow)
    chat = ChatGPU(model=path, **SETTINGS)
    batch = asyncio.create_task(chat.abatch(WORDS[:3]))
    await asyncio.sleep(0.1)
    try:
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 5) == 1
    finally:
        go.set()
        answers = await batch
    assert [answer.content for answer in answers] == [alone[text] for text in WORDS[:3]]
    chat.close()


def test_answers_from_a_cache_load_nothing(path: str) -> None:
    cache = InMemoryCache()
    with ChatGPU(model=path, cache=cache, **SETTINGS) as first:
        answers = first.batch(WORDS[:3])
    second = ChatGPU(model=path, cache=cache, **SETTINGS)
    assert [each.content for each in second.batch(WORDS[:3])] == [each.content for each in answers]
    assert second.loaded.keeper.loaded is None


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_first_batch_is_announced_as_soon_as_the_model_is_there(
    path: str, monkeypatch: pytest.MonkeyPatch, *, is_async: bool
) -> None:
    told: list[tuple[int, int]] = []
    expect = TransformersGenerator.expect

    def heard(self: TransformersGenerator, count: int, width: int) -> Any:
        told.append((count, width))
        return expect(self, count, width)

    monkeypatch.setattr(TransformersGenerator, "expect", heard)
    with ChatGPU(model=path, **SETTINGS) as chat:
        for _ in range(2):
            await chat.abatch(WORDS) if is_async else chat.batch(WORDS)
        assert chat.invoke(WORDS[0]).content
    assert told == [(len(WORDS), len(WORDS))] * 2


def test_a_model_that_is_not_kept_stays_for_a_whole_batch(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []

    def counted(choice: Choice, options: Options) -> Generator:
        loads.append(1)
        return create(choice, options)

    monkeypatch.setattr(loading, "create", counted)
    chat = ChatGPU(model=path, keep_alive=0, **SETTINGS)
    chat.batch(WORDS[:6], config={"max_concurrency": 1})
    assert len(loads) == 1


def test_close_while_the_model_is_loaded_frees_it_afterwards(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ChatGPU(model=path, **SETTINGS)

    def closed(choice: Choice, options: Options) -> Generator:
        chat.close()
        return create(choice, options)

    monkeypatch.setattr(loading, "create", closed)
    assert chat.invoke("hello").content
    assert chat.loaded.keeper.loaded is None


async def test_a_closed_model_is_freed_beside_the_loop(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeing, free = asyncio.Event(), threading.Event()
    loop, close = asyncio.get_running_loop(), TransformersGenerator.close

    def slow(self: TransformersGenerator) -> None:
        loop.call_soon_threadsafe(freeing.set)
        assert free.wait(5), "the loop stood still"
        close(self)

    monkeypatch.setattr(TransformersGenerator, "close", slow)
    chat = ChatGPU(model=path, **SETTINGS)

    async def listen() -> None:
        async for _ in chat.astream("hello"):
            chat.close()

    task = asyncio.create_task(listen())
    await asyncio.wait_for(freeing.wait(), 20)
    free.set()
    await task
    assert chat.loaded.keeper.loaded is None
