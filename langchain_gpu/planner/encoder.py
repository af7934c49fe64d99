"""The placement of an encoder or an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langchain_gpu.planner import arithmetic
from langchain_gpu.planner.components import Encoder, Index
from langchain_gpu.planner.gguf_encoder import on_cpu, on_gpu, place_gguf_encoder
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.pools import Pool
from langchain_gpu.planner.terms import ComponentPlan, Decision, Share, Term, listed, size, total


def place_encoder(
    encoder: Encoder, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> ComponentPlan:
    """Find the best place for an encoder; takes nothing from the pools.

    A batch is cut before anything leaves the GPU, but not below `policy.min_batch_tokens`; then the
    embedding table goes to the CPU; then batches of one text are tried; then the CPU. A GGUF file
    is placed as llama.cpp does it.
    """
    if encoder.info.format == "gguf":
        found = place_gguf_encoder(encoder, gpus, cpu)
    else:
        found = _place(encoder, gpus, cpu, policy)
    if found is None:
        return _no_room(encoder, gpus, cpu)
    if found.decision == "cpu" and gpus:
        why = _shortage(_needs(encoder, gpus, cpu))
        return replace(found, reason=f"{why}; {found.reason}")
    return found


def _place(
    encoder: Encoder, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> ComponentPlan | None:
    wanted = encoder.max_batch_tokens or policy.batch_tokens
    usual = max(min(wanted, policy.min_batch_tokens), min(wanted, encoder.max_length))
    for aside, least in ((False, usual), (True, usual), (False, encoder.max_length)):
        if aside and (cpu is None or not policy.partial):
            continue
        for pool in gpus:
            found = _try(encoder, pool, cpu if aside else None, wanted, least)
            if found is not None:
                return found
    if cpu is not None:
        wanted = encoder.max_batch_tokens or policy.cpu_batch_tokens
        return _try(encoder, cpu, None, wanted, min(wanted, encoder.max_length))
    return None


def place_index(index: Index, gpus: Sequence[Pool], cpu: Pool | None) -> ComponentPlan:
    """Find the place of an index: always the CPU's memory, and a mirror on a GPU if it fits."""
    name = f"{index.kind} {index.rows:,} x {index.dimension}"
    kept = Term("index", index.bytes, name)
    if cpu is None or kept.bytes > cpu.left:
        needs = [] if cpu is None else [(index.bytes, cpu)]
        return _refused(index.name, index.role, name, needs)
    decision: Decision = "cpu"
    why = "there is no GPU" if not gpus else "too large for what is left on the GPUs"
    reason = f"{why}: searched in the CPU's memory, {size(kept.bytes)}"
    shares: tuple[Share, ...] = (Share(cpu.device, (kept,)),)
    for pool in gpus:
        terms = [kept, *pool.overhead]
        if index.temporary:
            room = "room for the GPU search to compute in"
            terms.append(Term("activations", index.temporary, room))
        if total(terms) <= pool.left_beside(shares):
            decision = "whole"
            reason = f"mirrored on {pool.device}: {size(total(terms))}; saved from the CPU's memory"
            shares = (Share(pool.device, tuple(terms)), *shares)
            break
    return ComponentPlan(
        name=index.name,
        role=index.role,
        model=name,
        decision=decision,
        reason=reason,
        shares=shares,
    )


def _try(
    encoder: Encoder, pool: Pool, table_at: Pool | None, wanted: int, least: int
) -> ComponentPlan | None:
    """Place it on `pool`, its embedding table at `table_at` if given; None where it cannot be."""
    dtype = encoder.dtype or pool.dtype
    parts = _weights(encoder, dtype)
    here = parts[1:] if table_at else parts
    shares: list[Share] = []
    if table_at is not None:
        if parts[0].bytes > table_at.left:
            return None
        shares.append(Share(table_at.device, (parts[0],), 0))
    fixed = [*here, *pool.overhead]
    left = pool.left_beside(shares) - total(fixed)
    tokens = left // arithmetic.bytes_per_token(encoder, dtype)
    if tokens < max(least, encoder.max_length):
        return None
    tokens = min(wanted, tokens)
    # A text longer than a batch is computed alone.
    most = max(tokens, encoder.max_length)
    terms = (*fixed, arithmetic.encoder_activations(encoder, dtype, most))
    shares.insert(0, Share(pool.device, terms, encoder.info.layers))
    cut = f", with batches of {tokens:,} instead of {wanted:,} tokens" if tokens < wanted else ""
    where = listed(shares)
    if pool.kind == "cpu":
        decision: Decision = "cpu"
        reason = f"on the CPU{cut}: {where}"
    elif table_at is not None:
        decision, reason = "partial", f"the embedding table stays on the CPU{cut}: {where}"
    else:
        decision, reason = "whole", f"fits{cut}: {where}"
    return ComponentPlan(
        name=encoder.name,
        role=encoder.role,
        model=encoder.info.name,
        decision=decision,
        reason=reason,
        shares=tuple(shares),
        dtype=dtype,
        model_context=encoder.info.context_length,
        max_batch_tokens=tokens,
        embedding_on_cpu=table_at is not None,
    )


def _weights(encoder: Encoder, dtype: str) -> tuple[Term, Term]:
    """The embedding table, and all the rest."""
    info = encoder.info
    return (
        arithmetic.weights([info.embedding], dtype, "embedding table"),
        arithmetic.weights(
            [*info.blocks, info.output], dtype, f"{info.layers} layers and the rest"
        ),
    )


def _no_room(encoder: Encoder, gpus: Sequence[Pool], cpu: Pool | None) -> ComponentPlan:
    needs = _needs(encoder, gpus, cpu)
    if cpu is not None:
        gguf = encoder.info.format == "gguf"
        needs.append((on_cpu(encoder, cpu).kept if gguf else _least(encoder, cpu), cpu))
    return _refused(encoder.name, encoder.role, encoder.info.name, needs)


def _needs(encoder: Encoder, gpus: Sequence[Pool], cpu: Pool | None) -> list[tuple[int, Pool]]:
    """Return the bytes it takes at least on each GPU, or beside it, and where those are."""
    if encoder.info.format != "gguf":
        return [(_least(encoder, pool), pool) for pool in gpus]
    return [] if cpu is None else [_gguf_least(encoder, pool, cpu) for pool in gpus]


def _gguf_least(encoder: Encoder, pool: Pool, cpu: Pool) -> tuple[int, Pool]:
    """Return what it takes where it is too much: on a GPU, or beside it in the CPU's memory."""
    card, host = on_gpu(encoder, pool, cpu)
    if card.bytes > pool.left:
        return card.bytes, pool
    return host.kept + (card.kept if cpu.partner is pool else 0), cpu


def _least(encoder: Encoder, pool: Pool) -> int:
    """Return what it takes on a device to compute one text at a time."""
    dtype = encoder.dtype or pool.dtype
    one = encoder.max_length * arithmetic.bytes_per_token(encoder, dtype)
    return total([*_weights(encoder, dtype), *pool.overhead]) + one


def _refused(name: str, role: str, model: str, needs: Sequence[tuple[int, Pool]]) -> ComponentPlan:
    """Describe what is missing on the device where the least is missing."""
    reason = _shortage(needs) if needs else "there is no CPU memory to put it in"
    return ComponentPlan(name=name, role=role, model=model, decision="refused", reason=reason)


def _shortage(needs: Sequence[tuple[int, Pool]]) -> str:
    needed, best = min(needs, key=lambda each: each[0] - each[1].left)
    left = ", ".join(f"{size(pool.left)} on {pool.device}" for _, pool in needs)
    return (
        f"needs {size(needed)} on {best.device}, and {left} can be had: "
        f"{size(needed - best.left)} are missing"
    )


__all__ = ["place_encoder", "place_index"]
