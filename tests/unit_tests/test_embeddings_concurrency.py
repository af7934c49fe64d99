"""Calls of many threads and tasks: merged, never mixed, never in each other's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from langchain_gpu import GPUEmbeddings
from langchain_gpu.events import BatchDone, Event

Tiny = Callable[[str], str]
WORDS = ("gpu", "cpu", "memory", "batch", "token", "text", "model", "fast", "slow", "one", "two")


def sentence(number: int) -> str:
    return " ".join(WORDS[number // 11**place % 11] for place in range(1 + number % 5))


def make(tiny: Tiny, **more: Any) -> GPUEmbeddings:
    """Queries and documents are read alike, so that one list says what to expect of both."""
    return GPUEmbeddings(model=tiny("bert"), dtype="float32", encode_kwargs={"prompt": ""}, **more)


def batches(events: list[Event]) -> list[BatchDone]:
    return [each for each in events if isinstance(each, BatchDone)]


async def test_many_tasks_cost_a_few_forward_passes(tiny: Tiny) -> None:
    events: list[Event] = []
    model = make(tiny, on_event=events.append)
    texts = [sentence(number) for number in range(64)]
    alone = [model.embed_query(text) for text in texts]
    events.clear()
    vectors = await asyncio.gather(*(model.aembed_query(text) for text in texts))
    assert np.allclose(vectors, alone, atol=1e-5)
    assert sum(each.items for each in batches(events)) == 64
    assert len(batches(events)) <= 8


async def test_the_first_calls_load_once(tiny: Tiny) -> None:
    model = make(tiny)
    texts = [sentence(number) for number in range(20)]
    vectors = await asyncio.gather(*(model.aembed_query(text) for text in texts))
    assert np.allclose(vectors, model.embed_queries_to_array(texts), atol=1e-5)


async def test_a_cancelled_task_and_one_out_of_time_disturb_nobody(tiny: Tiny) -> None:
    model = make(tiny)
    wanted = [model.embed_query(sentence(number)) for number in range(30)]
    tasks = [asyncio.create_task(model.aembed_query(sentence(number))) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.aembed_query("slow"), 0)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(found):
        if isinstance(result, BaseException):
            assert number % 3 == 0
            assert isinstance(result, asyncio.CancelledError)
        else:
            assert np.allclose(result, wanted[number], atol=1e-5)
    assert np.allclose(await model.aembed_query(sentence(0)), wanted[0], atol=1e-5)


async def test_a_bad_text_is_the_problem_of_its_own_task(tiny: Tiny) -> None:
    model = make(tiny)
    texts = [sentence(number) for number in range(12)]
    texts[5] = "lone \ud800 surrogate"
    found = await asyncio.gather(*map(model.aembed_query, texts), return_exceptions=True)
    assert [index for index, each in enumerate(found) if isinstance(each, Exception)] == [5]
    assert "text 0 holds a lone surrogate" in str(found[5])


async def test_many_documents_go_their_own_way(tiny: Tiny) -> None:
    model = make(tiny)
    texts = [sentence(number) for number in range(500)]
    large, small = await asyncio.gather(
        model.aembed_documents(texts), model.aembed_documents(texts[:3])
    )
    assert np.allclose(large[:3], small, atol=1e-5)
    assert len(large) == 500
    assert await model.aembed_documents([]) == []


def test_thirty_two_threads_of_mixed_calls_never_mix(tiny: Tiny) -> None:
    model = make(tiny)
    texts = [sentence(number) for number in range(400)]
    wanted = model.embed_to_array(texts)
    together = threading.Barrier(32)

    def work(seed: int) -> int:
        random = np.random.default_rng(seed)
        together.wait(60)
        calls = 0
        while calls < 1000:
            at = int(random.integers(0, 300))
            kind = int(random.integers(0, 40))
            if kind == 0:
                rows = model.embed_to_array(texts[at : at + 60])
            elif kind < 10:
                rows = np.array(model.embed_documents(texts[at : at + kind]), np.float32)
            else:
                rows = np.array([model.embed_query(texts[at])], np.float32)
            assert np.allclose(rows, wanted[at : at + len(rows)], atol=1e-5)
            calls += 1
        return calls

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(work, range(32))) == 32_000


def test_closing_while_others_embed(tiny: Tiny) -> None:
    model = make(tiny)
    texts = [sentence(number) for number in range(200)]
    wanted = model.embed_to_array(texts)
    stop = threading.Event()

    def close() -> None:
        while not stop.wait(0.05):
            model.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        for _ in range(10):
            assert np.allclose(model.embed_to_array(texts), wanted, atol=1e-5)
            assert np.allclose(model.embed_query(texts[0]), wanted[0], atol=1e-5)
    finally:
        stop.set()
        closer.join(20)
