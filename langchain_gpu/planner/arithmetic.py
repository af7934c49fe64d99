"""The bytes that each part of a model takes, with its formula.

| part | bytes |
|---|---|
| weights | as they lie in the file, tensor by tensor; or numbers x bytes of the dtype asked for |
| KV cache | layers x (keys + values) x tokens kept x bytes of the cache's type |
| llama.cpp computes in | ubatch x (4 (3 I + 5 h) + 2 tokens + 24); logits |
| transformers computes in | tokens of the prompts x rows alive x bytes of the dtype; logits |
| an encoder computes in | tokens of a batch x rows alive x bytes of the dtype |

h is the hidden size, I the width of the feed-forward part. llama.cpp's terms are what its scheduler
reserves with flash attention: a row of every buffer that lives at the same time in a block (gate,
up and their product; the residual, its norm, queries, keys with values, attention's output), the
mask in 16 bits, and the indices of a token. PyTorch frees a tensor after its last use; the rows
that live at the widest place, counted with `verify.tensors.Tracker` on random weights: 3 h + 2 I
(BERT, RoBERTa), 2 h + 5 I (ModernBERT), 4 h + 3 I (Llama, Qwen3, Gemma 3), 2 h + k (4 I + 2 h) with
k experts at work (Mixtral). A cache with a sliding window holds the window; llama.cpp adds one step
of `ubatch` tokens, and rounds every cache up to 256 tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from langchain_gpu.models.info import CACHE_BITS, LayerCache, ModelInfo, Weights
from langchain_gpu.planner.components import DTYPE_BYTES, Chat, Encoder
from langchain_gpu.planner.terms import Term, size

STEP = 256
"""llama.cpp rounds windows and caches up to this many tokens."""
_HALF = 16
# On x86 with AVX2 (llama.cpp's ggml/src/ggml-cpu/repack.cpp); other types need more than that.
_REPACKED = frozenset({"Q4_0", "Q4_K", "IQ4_NL"})


def weights(parts: Sequence[Weights], dtype: str | None, label: str) -> Term:
    """Return what parts of a model take.

    Args:
        parts: Groups of tensors.
        dtype: What they are loaded as; None as they lie in the file.
        label: What they are called in the formula.
    """
    params = sum(part.params for part in parts)
    if dtype is not None:
        each = DTYPE_BYTES[dtype]
        return Term("weights", int(params * each), f"{label}: {_count(params)} x {each:g} B")
    listed = " + ".join(f"{name} {size(count)}" for name, count in _by_type(parts).items() if count)
    own = sum(part.bytes for part in parts)
    return Term("weights", own, f"{label}: {listed or size(own)}")


def repacked(parts: Sequence[Weights]) -> Term | None:
    """Return what llama.cpp's copies take: a CPU multiplies some types faster in another order.

    The originals stay mapped from the file, and are not read again. None where there is nothing of
    these types.
    """
    found = {name: count for name, count in _by_type(parts).items() if name in _REPACKED}
    if not found:
        return None
    listed = " + ".join(f"{name} {size(count)}" for name, count in found.items())
    count = sum(found.values())
    return Term("weights", count, f"copies in the CPU's own order: {listed}", droppable=count)


def kv_cache(chat: Chat, context: int, layers: range) -> Term:
    """Return what the caches of some layers take for all sequences.

    Args:
        chat: The model and how it is run.
        context: Tokens of one sequence.
        layers: Which layers.
    """
    caches = [chat.info.caches[number] for number in layers]
    dtype = _cache_dtype(chat)
    bits = CACHE_BITS[dtype]
    numbers = sum(_cells(cache, context, chat) * (cache.keys + cache.values) for cache in caches)
    kinds: Counter[tuple[int, int]] = Counter()
    for cache in caches:
        if not cache.keys + cache.values:  # it keeps a state, or reads another layer's
            continue
        kinds[_cells(cache, context, chat), cache.keys + cache.values] += 1
    listed = " + ".join(
        f"{count} layers x {width:,} x {cells:,} tokens" for (cells, width), count in kinds.items()
    )
    many = f" x {chat.sequences} chats" if chat.sequences > 1 else ""
    formula = f"({listed or 'nothing'}) x {bits / 8:g} B ({dtype}){many}"
    return Term("kv_cache", int(numbers * chat.sequences * bits / 8), formula)


def chat_activations(chat: Chat, context: int) -> Term:
    """Return what one device needs to compute with while a chat model runs."""
    info = chat.info
    wide = _width(info)
    if chat.runs_on == "llama_cpp":
        step = min(chat.ubatch, context * chat.sequences)
        written = f"(3 x {wide:,} + 5 x {info.hidden:,})"
        reserved = llama_step(step, context, 3 * wide + 5 * info.hidden, written)
        logits = 4 * info.vocab * chat.sequences
        formula = f"{reserved.formula} + {chat.sequences} x {info.vocab:,} x 4 B"
        return Term("activations", reserved.bytes + logits, formula)
    dtype = chat.dtype or info.dtype
    each = _computed(dtype if dtype in DTYPE_BYTES else "bfloat16")
    alive, written = _alive(info)
    tokens = context * chat.sequences
    count = int(tokens * alive * each) + 4 * info.vocab * chat.sequences
    formula = (
        f"{tokens:,} tokens x {written} x {each:g} B + {chat.sequences} x {info.vocab:,} x 4 B"
    )
    return Term("activations", count, formula)


def chat_inputs(chat: Chat, context: int) -> Term:
    """Return what the CPU needs where llama.cpp computes on GPUs only: the inputs of a step."""
    step = min(chat.ubatch, context * chat.sequences)
    return llama_step(step, context, chat.info.hidden, f"{chat.info.hidden:,}")


def llama_step(tokens: int, window: int, numbers: int, written: str) -> Term:
    """Return what llama.cpp's scheduler reserves to compute one step.

    Args:
        tokens: Tokens of the step.
        window: Tokens each of them may look back on: a row of the mask, in 16 bits.
        numbers: Numbers of a token that live at the widest place, in 32 bits.
        written: How they are counted.
    """
    return Term(
        "activations",
        tokens * (4 * numbers + 2 * window + 24),
        f"{tokens:,} tokens x (4 x {written} + 2 x {window:,} + 24) B",
    )


def rounded(tokens: int) -> int:
    """Return a window as llama.cpp makes it: rounded up to a multiple of `STEP`."""
    return -(-tokens // STEP) * STEP


def bytes_per_token(encoder: Encoder, dtype: str) -> int:
    """Return what one token of a batch takes while it passes through the widest place."""
    return int(_alive(encoder.info)[0] * _computed(dtype))


def encoder_activations(encoder: Encoder, dtype: str, tokens: int) -> Term:
    """Return what a batch takes."""
    formula = f"{tokens:,} tokens x {_alive(encoder.info)[1]} x {_computed(dtype):g} B"
    return Term("activations", tokens * bytes_per_token(encoder, dtype), formula)


def _by_type(parts: Iterable[Weights]) -> Counter[str]:
    """Return the bytes of each tensor type in all parts."""
    found: Counter[str] = Counter()
    for part in parts:
        found.update(part.by_type)
    return found


def _cells(cache: LayerCache, context: int, chat: Chat) -> int:
    if chat.runs_on != "llama_cpp":
        return context if cache.window is None else min(context, cache.window)
    cells = context if cache.window is None else min(context, cache.window + chat.ubatch)
    return rounded(cells)


def _cache_dtype(chat: Chat) -> str:
    """Return what keys and values are kept in: with transformers, what is computed in."""
    if chat.runs_on == "llama_cpp":
        return chat.cache_dtype
    dtype = chat.dtype or chat.info.dtype
    return dtype if CACHE_BITS.get(dtype, 0) >= _HALF else "bfloat16"


def _width(info: ModelInfo) -> int:
    """Return the width of the feed-forward part that one token passes through."""
    return info.intermediate * (1 if info.experts is None else info.experts[1])


def _alive(info: ModelInfo) -> tuple[int, str]:
    """Return how many numbers of a token live at the widest place, and how they are counted."""
    hidden, wide = info.hidden, info.intermediate
    if info.experts is not None:
        many = info.experts[1]
        number = 2 * hidden + many * (4 * wide + 2 * hidden)
        return number, f"(2 x {hidden:,} + {many} x (4 x {wide:,} + 2 x {hidden:,}))"
    first, second = 3, 2
    if info.role == "decoder":
        first, second = 4, 3
    elif "modernbert" in info.architecture.lower():
        first, second = 2, 5
    return first * hidden + second * wide, f"({first} x {hidden:,} + {second} x {wide:,})"


def _computed(dtype: str) -> float:
    """Return the bytes of an activation: quantised weights are computed with in 16 bits."""
    return max(2, DTYPE_BYTES[dtype])


def _count(params: int) -> str:
    for factor, name in ((10**9, "G"), (10**6, "M")):
        if params >= factor:
            return f"{params / factor:.2f} {name}"
    return f"{params:,}"


__all__ = [
    "STEP",
    "bytes_per_token",
    "chat_activations",
    "chat_inputs",
    "encoder_activations",
    "kv_cache",
    "llama_step",
    "repacked",
    "rounded",
    "weights",
]
