"""Plain prompts and what goes on from them: what every server has to do the same."""

from __future__ import annotations

from typing import Any

from langchain_core.outputs import Generation

from langchain_gpu import GPULLM


async def in_other_ways(llm: GPULLM, prompt: str) -> list[str]:
    """The text at once, and in a task at once and in pieces."""
    pieces = [text async for text in llm.astream(prompt)]
    return [llm.invoke(prompt), await llm.ainvoke(prompt), "".join(pieces)]


async def echoed(
    llm: GPULLM, count: int, *, is_async: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """Have a server that echoes do so for many prompts, twice.

    Returns:
        What is said of the first text, and the tokens of the first time.
    """
    prompts: list[Any] = [f"prompt {number}" for number in range(count)]
    result = await llm.agenerate(prompts) if is_async else llm.generate(prompts)
    assert [each[0].text for each in result.generations] == prompts
    texts = await llm.abatch(prompts) if is_async else llm.batch(prompts)
    assert texts == prompts
    first = result.generations[0][0]
    assert isinstance(first, Generation)
    assert result.llm_output is not None
    return first.generation_info or {}, result.llm_output["token_usage"]
