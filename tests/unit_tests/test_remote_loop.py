"""The loop on which requests fly: nothing is left behind when it ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator

import pytest

from langchain_gpu.servers.loop import Loop


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_half_read_generators_are_closed_with_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def pieces(name: str) -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    kept: list[AsyncGenerator[int, None]] = []

    async def closing() -> None:
        dropped = pieces("dropped")
        await anext(dropped)
        kept.append(pieces("kept"))
        await anext(kept[0])

    loop = Loop(closing)

    async def nothing() -> None:
        return

    loop.submit(nothing())()
    loop.close()
    assert sorted(ended) == ["dropped", "kept"]
    gc.collect()
    assert "destroyed" not in caplog.text
