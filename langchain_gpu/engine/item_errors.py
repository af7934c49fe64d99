"""Tells errors caused by an item from errors of the device or the server."""

from __future__ import annotations

from langchain_gpu.hardware.memory import is_out_of_memory
from langchain_gpu.llama.errors import LlamaError
from langchain_gpu.servers.errors import ServerError


def about_items(error: BaseException) -> bool:
    """Say whether an item, or the number of items, may be the cause: other items may succeed.

    They cannot where a server hangs or refuses the key, or where a device is broken.
    """
    if isinstance(error, ServerError):
        return error.about_items or is_out_of_memory(error)
    return isinstance(error, TypeError | ValueError | LlamaError) or is_out_of_memory(error)


__all__ = ["about_items"]
