"""The models behind the commands, and the only place that creates them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_gpu.store import manifest

if TYPE_CHECKING:
    from langchain_gpu.chat_models import ChatGPU
    from langchain_gpu.embeddings import GPUEmbeddings
    from langchain_gpu.events import Fallback, Listener
    from langchain_gpu.rerank import GPURerank

MAX_ANSWER_TOKENS = 512
# Small models go round in circles without it. Each engine has its own name for it.
_PENALTY = {"llama_cpp": "repeat_penalty", "transformers": "repetition_penalty"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where models run, and what happens if they cannot."""

    device: str = "auto"
    fallback: Fallback = "cpu"

    @property
    def search(self) -> str:
        """Where to search: a GPU asked for the models does not ask for a GPU build of FAISS."""
        return "cpu" if self.device == "cpu" else "auto"


def make_embeddings(model: str, place: Place, *, on_event: Listener | None = None) -> GPUEmbeddings:
    """Make the embedding; nothing is loaded yet."""
    from langchain_gpu.embeddings import GPUEmbeddings

    return GPUEmbeddings(
        model=_local_or_name(model), device=place.device, fallback=place.fallback, on_event=on_event
    )


def make_chat(
    model: str,
    place: Place,
    *,
    max_tokens: int = MAX_ANSWER_TOKENS,
    backend: str = "auto",
    base_url: str | None = None,
) -> ChatGPU:
    """Make the chat model; nothing is loaded yet. One chat at a time, the likeliest words.

    Args:
        model: A file, a folder or a name; a server's own name of a model.
        place: Where it runs, if not on a server: a server has devices of its own.
        max_tokens: Longest answer.
        backend: Which engine.
        base_url: Address of a server.

    Raises:
        ModelNotFoundError: There are no files for `model`.
    """
    from langchain_gpu.chat_models import ChatGPU
    from langchain_gpu.generators.registry import SERVERS, choose

    here = base_url is None and backend not in SERVERS
    penalty = _PENALTY.get(choose(model, backend).backend) if here else None
    return ChatGPU(
        model=model,
        backend=backend,
        base_url=base_url,
        device=place.device if here else "auto",
        fallback=place.fallback,
        n_parallel=1,
        temperature=0,
        max_tokens=max_tokens,
        model_kwargs={} if penalty is None else {penalty: 1.1},
    )


def make_reranker(model: str, place: Place, *, top_n: int) -> GPURerank:
    """Make the reranker; nothing is loaded yet."""
    from langchain_gpu.rerank import GPURerank

    return GPURerank(
        model=_local_or_name(model), device=place.device, fallback=place.fallback, top_n=top_n
    )


def is_store(folder: Path) -> bool:
    """Say whether a store was saved in `folder`."""
    return (folder / manifest.NAME).is_file()


def stored_model(folder: Path) -> str | None:
    """Return the embedding model a store was built with, None if that had no name.

    Raises:
        StoreError: There is no store, or it cannot be read.
    """
    return manifest.read(folder).identity.model


def _local_or_name(name: str) -> str:
    """Make a path absolute, so that a store finds its model from any folder."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
