"""Chats through Ollama."""

from __future__ import annotations

from typing import Any

from langchain_gpu.generators.registry import Options


class OllamaGenerator:
    """Not there yet."""

    def __init__(self, model: str, options: Options) -> None:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Say so."""
        raise NotImplementedError(name)
