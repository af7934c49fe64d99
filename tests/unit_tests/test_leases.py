"""A model that is closed while calls nobody waits for any more are under way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_gpu import GPUEmbeddings, GPURerank
from langchain_gpu.engine.encoder import Pending

Call = Callable[[str], Coroutine[Any, Any, Any]]


class Held:
    """An encoder whose forward passes wait to be let through.

    Attributes:
        begun: Set when one waits.
        gate: Lets them through.
        closed: Set when the encoder is closed.
        rows: Rows of the forward passes so far.
    """

    def __init__(self, encoder: Any, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.gate, self.closed = (threading.Event() for _ in range(3))
        self.rows = 0
        forward, close = encoder.forward, encoder.close

        def wait(features: Any) -> Pending:
            self.rows += len(features["input_ids"])
            self.begun.set()
            assert self.gate.wait(20)
            assert not self.closed.is_set(), "freed under a forward pass"
            pending: Pending = forward(features)
            return pending

        def note() -> None:
            self.closed.set()
            close()

        patch.setattr(encoder, "forward", wait)
        patch.setattr(encoder, "close", note)


class Turnstile:
    """An event that lets one through at a time."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(0)

    def set(self) -> None:
        self._free.release()

    def wait(self, timeout: float) -> bool:
        return self._free.acquire(timeout=timeout)


@pytest.fixture(params=["embeddings", "rerank"])
def model(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], str],
    tiny_reranker: Callable[[str], str],
) -> GPUEmbeddings | GPURerank:
    options: Any = {"device": "cpu", "backend": "torch", "dtype": "float32"}
    if request.param == "embeddings":
        return GPUEmbeddings(model=tiny("bert"), **options)
    return GPURerank(model=tiny_reranker("bert-identity"), **options)


@pytest.fixture
def call(model: GPUEmbeddings | GPURerank) -> Call:
    if isinstance(model, GPUEmbeddings):
        return model.aembed_query
    return lambda text: model.ascore([("the gpu", text)])


@pytest.fixture
def held(model: GPUEmbeddings | GPURerank, monkeypatch: pytest.MonkeyPatch) -> Held:
    with model._use() as loaded:
        local: Any = loaded if isinstance(model, GPUEmbeddings) else loaded._loaded
        return Held(local.encoder, monkeypatch)


async def begin(call: Call, held: Held) -> asyncio.Task[Any]:
    """Start a call, and see it reach the device."""
    task = asyncio.create_task(call("one"))
    assert await asyncio.to_thread(held.begun.wait, 20)
    return task


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_waits_for_what_a_cancelled_task_left_behind(
    model: GPUEmbeddings | GPURerank, call: Call, held: Held
) -> None:
    await cancel(await begin(call, held))
    model.close()
    assert not held.closed.is_set(), "freed under a forward pass"
    held.gate.set()
    assert await asyncio.to_thread(held.closed.wait, 20)


def test_closing_waits_for_what_an_interrupt_left_behind(
    model: GPUEmbeddings | GPURerank,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
    press_ctrl_c: Callable[[], None],
) -> None:
    def ask(text: str) -> object:
        if isinstance(model, GPUEmbeddings):
            return model.embed_query(text)
        return model.score([("the gpu", text)])

    def interrupt() -> None:
        while not collector._waiting:
            time.sleep(0.001)
        held.begun.clear()
        held.gate.set()
        assert held.begun.wait(20)  # the second call, on a thread of the model's own
        press_ctrl_c()

    monkeypatch.setattr(held, "gate", Turnstile())
    with model._use() as loaded:
        local: Any = loaded if isinstance(model, GPUEmbeddings) else loaded._loaded
        collector = local.engine._collector
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, "one")
        assert held.begun.wait(20)
        pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask("two")
        first.result(20)
    model.close()
    assert not held.closed.is_set(), "freed under a forward pass"
    held.gate.set()
    assert held.closed.wait(20)


async def test_what_has_not_begun_is_not_computed_for_a_cancelled_task(
    model: GPUEmbeddings | GPURerank, call: Call, held: Held
) -> None:
    first = await begin(call, held)
    waiting = asyncio.create_task(call("two"))
    await asyncio.sleep(0)
    await cancel(waiting)
    held.gate.set()
    await first
    await call("one")
    assert held.rows == 2
    model.close()
    assert held.closed.is_set(), "nobody uses it any more"


async def test_an_idle_model_is_not_freed_under_a_forward_pass(
    model: GPUEmbeddings | GPURerank, call: Call, held: Held
) -> None:
    task = await begin(call, held)
    model._loaded.keeper.idle_timeout = 0.05
    await cancel(task)
    assert not await asyncio.to_thread(held.closed.wait, 0.3)
    held.gate.set()
    assert await asyncio.to_thread(held.closed.wait, 20)


async def test_the_first_calls_load_once_and_keep_no_thread_of_the_loop(
    model: GPUEmbeddings | GPURerank, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    go = threading.Event()
    loads = list[threading.Thread]()
    make = type(model)._make

    def slowly(self: Any, config: Any) -> Any:
        loads.append(threading.current_thread())
        assert go.wait(20)
        return make(self, config)

    monkeypatch.setattr(type(model), "_make", slowly)
    tasks = [asyncio.create_task(call(text)) for text in ("one", "two", "three")]
    await asyncio.sleep(0.1)
    try:  # the one thread of the pool is free for others, such as the resolver of addresses
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    finally:
        go.set()
        await asyncio.gather(*tasks)
    assert len(loads) == 1
    assert loads[0] is not threading.main_thread()


async def test_what_is_closed_while_it_loads_is_loaded_once_and_freed(
    model: GPUEmbeddings | GPURerank, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, freed = threading.Event(), threading.Event(), threading.Event()
    loads = list[threading.Thread]()
    make = type(model)._make

    def slowly(self: Any, config: Any) -> Any:
        loads.append(threading.current_thread())
        begun.set()
        assert go.wait(20)
        made = make(self, config)
        monkeypatch.setattr(type(made), "close", lambda _: freed.set())
        return made

    monkeypatch.setattr(type(model), "_make", slowly)
    task = asyncio.create_task(call("one"))
    assert await asyncio.to_thread(begun.wait, 20)
    model.close()
    go.set()
    await task
    assert len(loads) == 1
    assert loads[0] is not threading.main_thread()
    assert model._loaded.keeper.loaded is None
    assert await asyncio.to_thread(freed.wait, 20)
