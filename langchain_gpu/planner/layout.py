"""The layers of a chat model on devices, for a given number of layers on GPUs.

llama.cpp keeps the embedding table in the CPU's memory, gives GPUs the last layers and, before
any of them, the output matrix; where that is the embedding table, a second copy of it.
With transformers the embedding table leaves the GPU first, then layers from the end, and with them
the output matrix; where that leaves room for the table again, it stays. What is left on the CPU is
computed on the first GPU all the same (accelerate's hooks bring it there and drop it again): that
GPU holds the caches of these layers, and keeps room for the largest of them. Apple's GPU leaves
them to the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_gpu.models.info import Weights
from langchain_gpu.planner import arithmetic
from langchain_gpu.planner.components import DTYPE_BYTES, Chat
from langchain_gpu.planner.pools import Pool
from langchain_gpu.planner.terms import Share, Term, kept, total

_DENSE_BYTES = 2


@dataclass(slots=True)
class _Part:
    """What one device gets."""

    layers: range
    embedding: bool = False
    output: bool = False
    host: bool = False  # the CPU beside GPUs: it makes the inputs
    copies: bool = False  # the CPU keeps some weights a second time, in another order
    away: bool = False  # its layers are computed elsewhere
    extra: tuple[Term, ...] = ()

    def terms(self, chat: Chat, context: int) -> tuple[Term, ...]:
        info = chat.info
        dtype = None if info.format == "gguf" else chat.dtype
        # bitsandbytes packs what stands inside the blocks only.
        dense = dtype if dtype is None or DTYPE_BYTES[dtype] >= _DENSE_BYTES else "bfloat16"
        blocks = info.blocks[self.layers.start : self.layers.stop]
        found = []
        if self.embedding:
            found.append(arithmetic.weights([info.embedding], dense, "embedding table"))
        if self.layers:
            found.append(arithmetic.weights(blocks, dtype, f"{len(self.layers)} layers"))
        if self.output:
            found.append(arithmetic.weights(_output(chat, self), dense, "output"))
        if self.copies and (copied := arithmetic.repacked(blocks)) is not None:
            found.append(copied)
        if self.layers and info.caches and not self.away:
            found.append(arithmetic.kv_cache(chat, context, self.layers))
        if (self.layers or self.output) and not self.away:
            found.append(arithmetic.chat_activations(chat, context))
        elif self.host:
            found.append(arithmetic.chat_inputs(chat, context))
        return (*found, *self.extra)


def lay(
    chat: Chat,
    context: int,
    gpus: Sequence[Pool],
    cpu: Pool | None,
    *,
    on_gpu: int,
    embedding_on_cpu: bool,
) -> tuple[Share, ...] | None:
    """Assign a model's layers to devices, filling GPUs one after the other.

    Args:
        chat: The model and how it is run.
        context: Tokens of one sequence.
        gpus: Where layers may go, in this order.
        cpu: Where the rest goes; None where there is none.
        on_gpu: How many layers go to GPUs.
        embedding_on_cpu: Whether the embedding table stays with the CPU. llama.cpp's always does.

    Returns:
        One share per device that gets something, or None where it does not fit.
    """
    count, llama = chat.info.layers, chat.runs_on == "llama_cpp"
    rest = range(count - on_gpu) if llama else range(on_gpu, count)
    left = range(count - on_gpu, count) if llama else range(on_gpu)
    output_on_gpu = on_gpu > 0 if llama else on_gpu == count
    at_cpu = _Part(
        rest,
        embedding=llama or embedding_on_cpu or not on_gpu,
        output=not output_on_gpu,
        host=llama,
        copies=llama and cpu is not None and "avx2" in cpu.isa,
        away=not llama and on_gpu > 0 and any(pool.kind != "mps" for pool in gpus),
    )
    shares: list[Share] = []
    first = True
    for pool in gpus:
        if not left:
            break
        embedding = first and not at_cpu.embedding
        visits = _visits(chat, context, at_cpu) if first and at_cpu.away else []
        taken = _fill(
            chat, context, pool, left, embedding=embedding, output=output_on_gpu, extra=visits
        )
        if taken is None:
            continue
        shares.append(taken)
        left = range(left.start + (taken.layers or 0), left.stop)
        first = False
    if left:
        return None
    if at_cpu.embedding or at_cpu.output or rest:
        terms = at_cpu.terms(chat, context)
        if cpu is None or kept(terms) > cpu.left_beside(shares):
            return None
        shares.append(Share(cpu.device, terms, len(rest)))
    return tuple(shares)


def _fill(
    chat: Chat,
    context: int,
    pool: Pool,
    left: range,
    *,
    embedding: bool,
    output: bool,
    extra: Sequence[Term],
) -> Share | None:
    """Assign as many of the `left` layers to a GPU as fit; None where not one does."""

    def share(count: int) -> Share | None:
        part = _Part(
            range(left.start, left.start + count),
            embedding=embedding,
            output=output and count == len(left),
            extra=(*extra, *pool.overhead),
        )
        terms = part.terms(chat, context)
        return Share(pool.device, terms, count) if total(terms) <= pool.left else None

    # The output matrix comes with the last layer; up to there a layer more is never smaller.
    best = share(len(left))
    low, high = 1, 0 if best else len(left) - 1
    while low <= high:
        middle = (low + high) // 2
        found = share(middle)
        if found is None:
            high = middle - 1
        else:
            best, low = found, middle + 1
    return best


def _visits(chat: Chat, context: int, at_cpu: _Part) -> list[Term]:
    """Return what the first GPU needs to compute what lies with the CPU."""
    info = chat.info
    parts = [
        *(part.terms(chat, context)[0] for part in map(_alone, at_cpu.layers)),
        *(_Part(range(0), output=at_cpu.output, away=True).terms(chat, context)),
    ]
    if not parts:
        return []
    largest = max(parts, key=lambda term: term.bytes)
    room = f"room for the largest part that comes from the CPU: {largest.formula}"
    found = [Term("activations", largest.bytes, room)]
    if at_cpu.layers and info.caches:
        found.insert(0, arithmetic.kv_cache(chat, context, at_cpu.layers))
    return found


def _alone(layer: int) -> _Part:
    return _Part(range(layer, layer + 1), away=True)


def _output(chat: Chat, part: _Part) -> tuple[Weights, ...]:
    info = chat.info
    # llama.cpp copies a tied matrix to where it predicts words; transformers has it in one place.
    if info.tied and not part.embedding and chat.runs_on == "llama_cpp":
        return info.output, info.embedding
    return (info.output,)


__all__ = ["lay"]
