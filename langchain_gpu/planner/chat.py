"""The placement of a chat model: whole, split, shorter context, partial, or on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_gpu.planner.arithmetic import STEP
from langchain_gpu.planner.components import Chat
from langchain_gpu.planner.layout import lay
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.pools import Pool, most_left
from langchain_gpu.planner.suggest import beyond_window, suggest
from langchain_gpu.planner.terms import ComponentPlan, Decision, Share, listed, size


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where a chat model fits.

    Attributes:
        decision: What that is called.
        context: Tokens of one chat.
        shares: What lies where.
        on_gpu: How many layers lie on GPUs.
        embedding_on_cpu: Whether the embedding table stays with the CPU.
    """

    decision: Decision
    context: int
    shares: tuple[Share, ...]
    on_gpu: int
    embedding_on_cpu: bool


def place_chat(chat: Chat, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy) -> ComponentPlan:
    """Find the best place for a chat model; takes nothing from the pools.

    Args:
        chat: The model and how it is run.
        gpus: GPUs with what is left on them.
        cpu: The CPU's memory, None where there is none.
        policy: What must be respected.
    """
    wanted = chat.context or min(policy.context, chat.info.context_length or policy.context)
    found = _first_that_fits(chat, wanted, gpus, cpu, policy)
    if found is None:
        return _refused(chat, wanted, gpus, cpu, policy)
    llama = chat.runs_on == "llama_cpp"
    return ComponentPlan(
        name=chat.name,
        role=chat.role,
        model=chat.info.name,
        decision=found.decision,
        reason=_reason(chat, wanted, found, gpus, policy),
        shares=found.shares,
        context=found.context,
        model_context=chat.info.context_length,
        sequences=chat.sequences,
        cache_dtype=chat.cache_dtype if llama else None,
        ubatch=chat.ubatch if llama else None,
        n_gpu_layers=found.on_gpu + _output_on_gpu(chat, found.on_gpu),
        embedding_on_cpu=found.embedding_on_cpu,
        dtype=None if llama else chat.dtype or chat.info.dtype,
        suggestions=(
            *beyond_window(chat),
            *(
                suggest(chat, found.context, gpus, cpu, policy)
                if _could_be_better(found, gpus)
                else ()
            ),
        ),
    )


def _first_that_fits(
    chat: Chat, wanted: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> _Placement | None:
    """Try the places from best to worst, with a shorter context only where none was asked for."""
    may_shrink = chat.context is None
    found = _on_gpus(chat, wanted, gpus, cpu, policy)
    if found is None and may_shrink:
        found = _with_less(chat, wanted, gpus, cpu, policy)
    found = found or _with_cpu(chat, wanted, gpus, cpu, policy)
    smallest = min(policy.min_context, wanted)
    if found is None and may_shrink and smallest < wanted:
        found = _with_cpu(chat, smallest, gpus, cpu, policy)
    return found


def _with_cpu(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> _Placement | None:
    """Leave a part of the layers to the CPU, else all of them."""
    found = _in_part(chat, context, gpus, cpu) if policy.partial else None
    return found or _on_cpu(chat, context, cpu)


def _on_gpus(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> _Placement | None:
    """Put all layers on one GPU, else on all of them together."""
    layers = chat.info.layers
    for table_on_cpu in _table_places(chat):
        partly = table_on_cpu and chat.runs_on != "llama_cpp"
        if partly and not policy.partial:
            continue
        together = [gpus] if len(gpus) > 1 else []
        for pools in [*([pool] for pool in gpus), *together]:
            shares = lay(chat, context, pools, cpu, on_gpu=layers, embedding_on_cpu=table_on_cpu)
            if shares is not None:
                decision: Decision = "whole" if len(pools) == 1 else "spread"
                decision = "partial" if partly else decision
                return _Placement(decision, context, shares, layers, table_on_cpu)
    return None


def _with_less(
    chat: Chat, wanted: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> _Placement | None:
    """Find the longest context, in steps, with which everything lies on GPUs."""
    low, high = -(-policy.min_context // STEP), (wanted - 1) // STEP
    best = None
    while low <= high:
        middle = (low + high) // 2
        found = _on_gpus(chat, middle * STEP, gpus, cpu, policy)
        if found is not None:
            best, low = found, middle + 1
        else:
            high = middle - 1
    return best


def _in_part(chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None) -> _Placement | None:
    """Put as many layers on GPUs as fit, and the rest on the CPU."""
    for on_gpu in range(chat.info.layers - 1, 0, -1):
        for table_on_cpu in _table_places(chat):
            shares = lay(chat, context, gpus, cpu, on_gpu=on_gpu, embedding_on_cpu=table_on_cpu)
            if shares is not None:
                return _Placement("partial", context, shares, on_gpu, table_on_cpu)
    return None


def _on_cpu(chat: Chat, context: int, cpu: Pool | None) -> _Placement | None:
    shares = lay(chat, context, (), cpu, on_gpu=0, embedding_on_cpu=True)
    return None if shares is None else _Placement("cpu", context, shares, 0, True)  # noqa: FBT003


def _table_places(chat: Chat) -> tuple[bool, ...]:
    """Return whether the embedding table may be on the CPU: the choices, in the order to try."""
    if chat.runs_on == "llama_cpp":
        return (True,)
    return (False,) if chat.info.tied else (False, True)


def _output_on_gpu(chat: Chat, on_gpu: int) -> bool:
    return on_gpu > 0 and (chat.runs_on == "llama_cpp" or on_gpu == chat.info.layers)


def _could_be_better(found: _Placement, gpus: Sequence[Pool]) -> bool:
    return found.decision == "partial" or (found.decision == "cpu" and bool(gpus))


def _reason(
    chat: Chat, wanted: int, found: _Placement, gpus: Sequence[Pool], policy: Policy
) -> str:
    where = listed(found.shares)
    if dropped := sum(share.bytes - share.kept for share in found.shares):
        where += f", {size(dropped)} of which may go: the file's own copy of what lies there twice"
    cut = (
        f", with a context of {found.context:,} instead of {wanted:,} tokens"
        if found.context < wanted
        else ""
    )
    if found.decision == "whole":
        return f"fits{cut}: {where}"
    if found.decision == "spread":
        return f"needs several GPUs{cut}: {where}"
    if found.decision == "partial":
        return f"too large for the GPU: {_left_on_cpu(chat, found)} on the CPU{cut}: {where}"
    why = "not one layer fits on a GPU" if policy.partial else "too large for a GPU, undivided"
    why = why if gpus else "there is no GPU"
    return f"{why}{cut}: {where}"


def _left_on_cpu(chat: Chat, found: _Placement) -> str:
    """Say what stays, for example `"2 of 24 layers and the embedding table stay"`."""
    layers = chat.info.layers
    left = layers - found.on_gpu
    table = found.embedding_on_cpu and chat.runs_on != "llama_cpp"
    parts = [f"{left} of {layers} layers"] if left else []
    parts += ["the embedding table"] if table else []
    return f"{' and '.join(parts)} {'stays' if left + table == 1 else 'stay'}"


def _refused(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> ComponentPlan:
    smallest = context if chat.context else min(context, policy.min_context)
    room = Pool("cpu", "cpu", "", "float32", None, 1 << 62, 0)
    shares = lay(chat, smallest, (), room, on_gpu=0, embedding_on_cpu=True) or ()
    needed = sum(share.bytes for share in shares)
    pools = [*gpus, *((cpu,) if cpu else ())]
    left = [f"{size(pool.left)} on {pool.device}" for pool in pools]
    most = most_left(pools)
    missing = f"{size(needed - most)} are missing"
    if needed <= most:
        missing = "it cannot be split so that every part fits"
    return ComponentPlan(
        name=chat.name,
        role=chat.role,
        model=chat.info.name,
        decision="refused",
        reason=(
            f"needs {size(needed)} with a context of {smallest:,} tokens, and {', '.join(left)} "
            f"can be had: {missing}"
        ),
        context=None,
        model_context=chat.info.context_length,
        suggestions=(*beyond_window(chat), *suggest(chat, smallest, gpus, cpu, policy)),
    )


__all__ = ["place_chat"]
