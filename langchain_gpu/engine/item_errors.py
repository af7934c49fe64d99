"""Whether an error is about what was given, or about who was asked."""

from __future__ import annotations

from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.llama.errors import LlamaError
from langchain_gpu.servers.errors import ServerError


def about_items(error: BaseException) -> bool:
    """Say whether one of the items, or their number, may be the reason: others may fare better.

    They may not where a server hangs or wants another key, or a device is broken.
    """
    if isinstance(error, ServerError):
        return error.about_items or is_out_of_memory(error)
    return isinstance(error, TypeError | ValueError | LlamaError) or is_out_of_memory(error)


__all__ = ["about_items"]
