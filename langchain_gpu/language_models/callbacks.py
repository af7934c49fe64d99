"""LangChain's token callbacks, and errors as the types that its fallbacks look for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError

from langchain_gpu.generators.base import Delta, PromptTooLongError


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise what LangChain's fallbacks look for."""
    try:
        yield
    except PromptTooLongError as error:
        raise ContextOverflowError(str(error)) from error


def report_tokens(
    deltas: Iterable[Delta], run_manager: CallbackManagerForLLMRun | None
) -> Iterator[Delta]:
    """Pass on the pieces of an answer, and tell LangChain's callbacks their text first."""
    for delta in deltas:
        if run_manager is not None and delta.text:
            run_manager.on_llm_new_token(delta.text)
        yield delta


async def report_token_async(
    run_manager: AsyncCallbackManagerForLLMRun | None, delta: Delta
) -> None:
    """Tell LangChain's callbacks the text of one piece."""
    if run_manager is not None and delta.text:
        await run_manager.on_llm_new_token(delta.text)


__all__ = ["langchain_errors", "report_token_async", "report_tokens"]
