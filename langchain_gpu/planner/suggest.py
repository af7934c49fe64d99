"""Suggestions that would fit: fewer bits per weight, or a shorter context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from langchain_gpu.models.info import ModelInfo, Weights
from langchain_gpu.planner.components import Chat
from langchain_gpu.planner.layout import lay
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.pools import Pool
from langchain_gpu.planner.terms import size

BITS: Mapping[str, float] = {
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.57,
    "Q5_K_M": 5.70,
    "Q4_K_M": 4.89,
    "Q4_K_S": 4.67,
    "Q3_K_M": 4.00,
    "Q3_K_S": 3.64,
    "Q2_K": 3.16,
}
"""Bits of a weight, scales included, in files of Llama 3.1 8B that llama.cpp's quantize tool made
(its README's table); other models differ by a few percent, since some tensors get more bits."""


def suggest(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> tuple[str, ...]:
    """Say what would lie on one GPU whole, or fit at all."""
    found = []
    name = largest_quantization(chat, context, gpus or ((cpu,) if cpu else ()), cpu)
    if name is not None:
        there = "on one GPU" if gpus else "in memory"
        found.append(
            f"{name} (about {BITS[name]:g} bits a weight, "
            f"{size(chat.info.params * BITS[name] / 8)}) would fit whole {there}"
        )
    shorter = _shorter(chat, context, gpus, cpu, policy)
    if shorter is not None:
        found.append(f"a context of {shorter:,} tokens would fit whole on one GPU")
    return tuple(found)


def beyond_window(chat: Chat) -> tuple[str, ...]:
    """Say where more tokens were asked for than the model was made for; nothing forbids it."""
    own = chat.info.context_length
    if own is None or chat.context is None or chat.context <= own:
        return ()
    asked = f"{chat.context:,} were asked for: what it writes beyond its own may be worthless"
    return (f"a context of {own:,} tokens, the model's own window ({asked})",)


def largest_quantization(
    chat: Chat, context: int, pools: Sequence[Pool], cpu: Pool | None
) -> str | None:
    """Return the GGUF quantization with the most bits that fits whole into one of `pools`.

    None where none does, or where the model is no larger than that already.
    """
    now = chat.info.weight_bytes * 8 / max(1, chat.info.params)
    for name, bits in BITS.items():
        if bits >= now:
            continue
        smaller = replace(chat, info=with_bits(chat.info, name), engine="llama_cpp", dtype=None)
        for pool in pools:
            on_cpu = pool.kind == "cpu"
            shares = lay(
                smaller,
                context,
                () if on_cpu else [pool],
                pool if on_cpu else cpu,
                on_gpu=0 if on_cpu else chat.info.layers,
                embedding_on_cpu=True,
            )
            if shares is not None:
                return name
    return None


def _shorter(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> int | None:
    aside = chat.runs_on == "llama_cpp"
    tokens = context // 2
    while tokens >= min(policy.min_context, context // 2) and tokens > 0:
        for pool in gpus:
            if lay(chat, tokens, [pool], cpu, on_gpu=chat.info.layers, embedding_on_cpu=aside):
                return tokens
        tokens //= 2
    return None


def with_bits(info: ModelInfo, quantization: str) -> ModelInfo:
    """Return the model as a GGUF of a quantization of `BITS`, each weight in its mean of bits."""
    # The type that most of the tensors have: "Q4_K" in a Q4_K_M.
    kind = quantization.removesuffix("_M").removesuffix("_S")

    def shrink(part: Weights) -> Weights:
        count = int(part.params * BITS[quantization] / 8)
        return Weights(params=part.params, bytes=count, by_type={kind: count} if count else {})

    return replace(
        info,
        format="gguf",
        dtype=quantization,
        embedding=shrink(info.embedding),
        blocks=tuple(shrink(block) for block in info.blocks),
        output=shrink(info.output),
    )


__all__ = ["BITS", "beyond_window", "largest_quantization", "suggest", "with_bits"]
