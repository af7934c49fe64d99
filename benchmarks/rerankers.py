"""Who reranks: sentence-transformers' cross-encoder as people use it, at its best, and ours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import NotHereError
from langchain_gpu import GPURerank, select_device

BASE = "CrossEncoder"  # float32: every ratio and every order is against it
OURS = "GPURerank"
Pair = tuple[str, str]
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reranker:
    """One way to score pairs.

    Attributes:
        name: As the tables call it.
        score: Pairs to scores.
        note: What a reader should know of how it ran.
    """

    name: str
    score: Callable[[Sequence[Pair]], Scores]
    note: str = ""


Loader = Callable[[str, str, str], Reranker]


def load(name: str, model: str, device: str) -> Reranker:
    """Load one of `NAMES`.

    Args:
        name: Which.
        model: Folder of the model.
        device: As `GPURerank` takes it.

    Raises:
        NotHereError: It cannot take part here; the message says why.
    """
    return LOADERS[name](name, model, device)


def _cross_encoder(name: str, model: str, device: str, **options: Any) -> Reranker:
    from sentence_transformers import CrossEncoder

    loaded = CrossEncoder(model, device=select_device(device).torch_name, **options)
    return Reranker(name, lambda pairs: _predict(loaded, pairs))


def _predict(loaded: Any, pairs: Sequence[Pair]) -> Scores:
    scores: Scores = loaded.predict([list(pair) for pair in pairs], show_progress_bar=False)
    return scores


def _half(name: str, model: str, device: str) -> Reranker:
    import torch

    return _cross_encoder(name, model, device, model_kwargs={"dtype": torch.bfloat16})


def _exported(name: str, model: str, device: str) -> Reranker:
    backend = name.rsplit(" ", 1)[1]
    if importlib.util.find_spec("optimum") is None:
        raise NotHereError(f"sentence-transformers' {backend} back end needs optimum")
    try:
        return _cross_encoder(name, model, device, backend=backend)
    except Exception as error:
        raise NotHereError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _ours(name: str, model: str, device: str, **options: Any) -> Reranker:
    reranker = GPURerank(model=model, device=device, top_n=None, **options)
    return Reranker(name, reranker.score, f"{reranker.devices[0]}; {reranker.backend_reason}")


def _ours_torch(name: str, model: str, device: str) -> Reranker:
    return _ours(name, model, device, backend="torch")


def _ours_exact(name: str, model: str, device: str) -> Reranker:
    return _ours(name, model, device, dtype="float32")


LOADERS: dict[str, Loader] = {
    BASE: _cross_encoder,
    f"{BASE}, bfloat16": _half,
    f"{BASE}, openvino": _exported,
    f"{BASE}, onnx": _exported,
    f"{OURS}, torch": _ours_torch,
    f"{OURS}, float32": _ours_exact,
    OURS: _ours,
}
NAMES = tuple(LOADERS)
