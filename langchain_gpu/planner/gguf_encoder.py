"""The placement of a GGUF encoder, and the buffers that llama.cpp reserves for it.

A text passes in one piece, so that what is computed in is reserved for the whole window at once:
window x (4 x rows + 2 x window + 24), with a row of every number of a token that lives at the
widest place. As llama.cpp's scheduler reserved it for random weights of several shapes: I + 5 h for
a BERT, and vocabulary + 5 h for a model that writes text, whose logits are computed for every
token though nobody reads them. Gated encoders are counted as wide as a block of a Llama,
3 I + 5 h, which was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_gpu.models.info import ModelInfo
from langchain_gpu.planner import arithmetic
from langchain_gpu.planner.components import Encoder
from langchain_gpu.planner.pools import Pool
from langchain_gpu.planner.terms import ComponentPlan, Share, Term, listed

WINDOW = 2048
"""Tokens of the longest text where nothing else is asked for: room to compute in grows with it."""
CPU_SLOTS, GPU_SLOTS = 1, 8
"""Texts at a time: on a CPU one after the other is as fast, a GPU wants more at once."""
_CACHE_BYTES = 2


def window_of(encoder: Encoder) -> int:
    """Return the tokens of the longest text, as llama.cpp is asked for them."""
    most = min(encoder.max_length, encoder.info.context_length or encoder.max_length)
    return arithmetic.rounded(most)


def slots_of(device: str) -> int:
    """Return how many texts are worked on at a time on a device of that name."""
    return CPU_SLOTS if device == "cpu" else GPU_SLOTS


def place_gguf_encoder(
    encoder: Encoder, gpus: Sequence[Pool], cpu: Pool | None
) -> ComponentPlan | None:
    """Find the best place; takes nothing from the pools.

    llama.cpp keeps the tables of embeddings with the CPU. All else goes to one GPU, or stays there.

    Returns:
        None where it fits nowhere.
    """
    if cpu is None:
        return None
    for pool in gpus:
        card, host = on_gpu(encoder, pool, cpu)
        if card.bytes <= pool.left and host.kept <= cpu.left_beside([card]):
            return _planned(encoder, (card, host))
    share = on_cpu(encoder, cpu)
    return _planned(encoder, (share,)) if share.kept <= cpu.left else None


def on_gpu(encoder: Encoder, pool: Pool, cpu: Pool) -> tuple[Share, Share]:
    """Return what lies on a GPU, and what stays with the CPU."""
    info, window = encoder.info, window_of(encoder)
    # A tied output matrix is a second copy of the table.
    output = (info.output, info.embedding) if info.tied and info.caches else (info.output,)
    card = (
        arithmetic.weights([*info.blocks, *output], None, f"{info.layers} layers and the rest"),
        *_cache(info, window, GPU_SLOTS),
        _computed(info, window),
        *pool.overhead,
    )
    host = (
        arithmetic.weights([info.embedding], None, "embedding table"),
        arithmetic.llama_step(window, window, info.hidden, f"{info.hidden:,}"),
        _outputs(info, GPU_SLOTS),
    )
    return Share(pool.device, card, info.layers), Share(cpu.device, host, 0)


def on_cpu(encoder: Encoder, cpu: Pool) -> Share:
    """Return what it takes in the CPU's memory."""
    info, window = encoder.info, window_of(encoder)
    copied = arithmetic.repacked(info.blocks) if "avx2" in cpu.isa else None
    terms = (
        arithmetic.weights([info.embedding], None, "embedding table"),
        arithmetic.weights([*info.blocks, info.output], None, f"{info.layers} layers and the rest"),
        *([] if copied is None else [copied]),
        *_cache(info, window, CPU_SLOTS),
        _computed(info, window),
        _outputs(info, CPU_SLOTS),
    )
    return Share(cpu.device, terms, info.layers)


def _planned(encoder: Encoder, shares: tuple[Share, ...]) -> ComponentPlan:
    whole = len(shares) > 1
    where = listed(shares)
    return ComponentPlan(
        name=encoder.name,
        role=encoder.role,
        model=encoder.info.name,
        decision="whole" if whole else "cpu",
        reason=f"fits: {where}" if whole else f"on the CPU: {where}",
        shares=shares,
        model_context=encoder.info.context_length,
        max_batch_tokens=window_of(encoder),
        n_gpu_layers=encoder.info.layers + 1 if whole else 0,
        embedding_on_cpu=True,
    )


def _computed(info: ModelInfo, window: int) -> Term:
    hidden, wide = info.hidden, info.intermediate
    rows, written = 3 * wide + 5 * hidden, f"(3 x {wide:,} + 5 x {hidden:,})"
    if info.architecture == "bert":
        rows, written = wide + 5 * hidden, f"({wide:,} + 5 x {hidden:,})"
    elif info.role == "decoder" and info.vocab > 3 * wide:
        rows, written = info.vocab + 5 * hidden, f"({info.vocab:,} + 5 x {hidden:,})"
    return arithmetic.llama_step(window, window, rows, written)


def _outputs(info: ModelInfo, slots: int) -> Term:
    count = 4 * slots * (info.vocab + info.hidden)
    return Term("activations", count, f"{slots} x ({info.vocab:,} + {info.hidden:,}) x 4 B")


def _cache(info: ModelInfo, window: int, slots: int) -> list[Term]:
    """A model that was made to write text keeps keys and values here too."""
    numbers = sum(cache.keys + cache.values for cache in info.caches)
    if not numbers:
        return []
    formula = f"{numbers:,} x {window:,} tokens x {_CACHE_BYTES} B (float16) x {slots}"
    return [Term("kv_cache", numbers * window * slots * _CACHE_BYTES, formula)]


__all__ = [
    "CPU_SLOTS",
    "GPU_SLOTS",
    "WINDOW",
    "on_cpu",
    "on_gpu",
    "place_gguf_encoder",
    "slots_of",
    "window_of",
]
