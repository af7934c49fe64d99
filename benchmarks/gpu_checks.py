"""What has to hold on a GPU besides speed: the vectors, memory given back, too little of it."""

from __future__ import annotations

import gc
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.contestants import HALF, Setup, load
from benchmarks.machine import synchronize
from benchmarks.measure import units
from langchain_gpu import GPUEmbeddings
from langchain_gpu.events import BudgetChanged, Event, FellBack

# Bytes left free beside the weights for the check of the ladder: not enough for one large batch.
_LEFT = 3 * 2**30
_HUGE = 2**28  # tokens per batch
_SINGLE = 32  # texts embedded one by one


def parity(setup: Setup, texts: list[str], ids: list[list[int]]) -> dict[str, Any]:
    """Compare with sentence-transformers in float32, and one order of the texts with another."""
    exact = units(load(setup, "sentence-transformers").documents(texts))
    half = load(setup, HALF)
    found = {half.name: units(half.documents(texts))}
    with GPUEmbeddings(model=str(setup.folder), device=setup.device) as ours:
        found["GPUEmbeddings"] = together = units(ours.embed_to_array(texts))
        found["GPUEmbeddings, ids"] = units(ours.embed_tokens(ids))
        alone = units([ours.embed_documents([text])[0] for text in texts[:_SINGLE]])
        other = np.random.default_rng(2).permutation(len(texts))
        turned = units(ours.embed_to_array([texts[int(place)] for place in other]))
    return {
        "texts": len(texts),
        "min_cosine": {name: _least(exact, rows) for name, rows in found.items()},
        "one_by_one": _least(together[:_SINGLE], alone),
        "another_order": _least(together[other], turned),
    }


def freed(setup: Setup, texts: list[str]) -> dict[str, Any]:
    """Say what torch holds on the device before loading, loaded, and after `close`, in bytes.

    And again: what a library keeps from its first use on (cuBLAS its workspaces) is no leak, and
    does not become more.
    """
    found = {"before": allocated(setup)}
    for again in ("", "_again"):
        ours = GPUEmbeddings(model=str(setup.folder), device=setup.device)
        ours.embed_to_array(texts)
        found[f"loaded{again}"] = allocated(setup)
        ours.close()
        found[f"after_close{again}"] = allocated(setup)
    return found


def out_of_memory(setup: Setup, texts: list[str], *, left: int = _LEFT) -> dict[str, Any]:
    """Fill the card, ask for a batch that cannot fit, and see that the work ends well.

    The model is loaded before: on a full card it would be planned with smaller batches, and none
    would fail.

    Args:
        setup: The model and the card.
        texts: Take more than `left` in one batch.
        left: Bytes that nothing fills.

    Returns:
        Whether all rows are there, what was said meanwhile, and the least cosine to the same texts
        with room.
    """
    import torch

    options: dict[str, Any] = {"model": str(setup.folder), "device": setup.device}
    with GPUEmbeddings(**options) as roomy:
        wanted = units(roomy.embed_to_array(texts))
    said: list[Event] = []
    with GPUEmbeddings(**options, max_batch_tokens=_HUGE, on_event=said.append) as ours:
        ours.embed_query("load the model")
        clean()
        free = torch.cuda.mem_get_info(setup.torch_device)[0]
        ballast = torch.empty(max(0, free - left), dtype=torch.uint8, device=setup.torch_device)
        try:
            rows = ours.embed_to_array(texts)
        finally:
            del ballast
    clean()
    return {
        "texts": len(texts),
        "max_batch_tokens": _HUGE,
        "bytes_left": min(free, left),
        "finished": len(rows) == len(texts) and bool(np.isfinite(rows).all()),
        "budget_changes": [asdict(each) for each in said if isinstance(each, BudgetChanged)],
        "fallbacks": [asdict(each) for each in said if isinstance(each, FellBack)],
        "min_cosine": _least(wanted, units(rows)),
    }


def allocated(setup: Setup) -> int | None:
    """Return the bytes torch holds on the device; None where it does not count them."""
    if not setup.torch_device.startswith("cuda"):
        return None
    import torch

    synchronize(setup.torch_device)
    held: int = torch.cuda.memory_allocated(setup.torch_device)
    return held


def clean() -> None:
    """Give back what nobody uses any more."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _least(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    return round(float((left * right).sum(axis=1).min()), 6)
