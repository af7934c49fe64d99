"""Where a chat model goes: whole, spread, with fewer tokens, in part, on the CPU, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_gpu.planner.arithmetic import STEP
from langchain_gpu.planner.components import Chat
from langchain_gpu.planner.layout import lay
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.pools import Pool, most_left
from langchain_gpu.planner.suggest import beyond_window, suggest
from langchain_gpu.planner.terms import ComponentPlan, Decision, Share, size

_Found = tuple[Decision, int, tuple[Share, ...], int, bool]


def place_chat(chat: Chat, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy) -> ComponentPlan:
    """Find the best place for a chat model; takes nothing from the pools.

    Args:
        chat: The model and how it is run.
        gpus: GPUs with what is left on them.
        cpu: The CPU's memory, None where there is none.
        policy: What must be respected.
    """
    wanted = chat.context or min(policy.context, chat.info.context_length or policy.context)
    found = _on_gpus(chat, wanted, gpus, cpu, policy)
    if found is None and chat.context is None:
        found = _with_less(chat, wanted, gpus, cpu, policy)
    if found is None and policy.partial:
        found = _in_part(chat, wanted, gpus, cpu)
    if found is None:
        found = _on_cpu(chat, wanted, cpu)
    smaller = min(policy.min_context, wanted)
    if found is None and chat.context is None and smaller < wanted:
        found = _in_part(chat, smaller, gpus, cpu) if policy.partial else None
        found = found or _on_cpu(chat, smaller, cpu)
    if found is None:
        return _refused(chat, wanted, gpus, cpu, policy)
    decision, context, shares, on_gpu, embedding_on_cpu = found
    llama = chat.runs_on == "llama_cpp"
    return ComponentPlan(
        name=chat.name,
        role=chat.role,
        model=chat.info.name,
        decision=decision,
        reason=_reason(chat, wanted, found, gpus, policy),
        shares=shares,
        context=context,
        model_context=chat.info.context_length,
        sequences=chat.sequences,
        cache_dtype=chat.cache_dtype if llama else None,
        ubatch=chat.ubatch if llama else None,
        n_gpu_layers=on_gpu + 1 if on_gpu and _output_on_gpu(chat, on_gpu) else on_gpu,
        embedding_on_cpu=embedding_on_cpu,
        dtype=None if llama else chat.dtype or chat.info.dtype,
        suggestions=(
            *beyond_window(chat),
            *(suggest(chat, context, gpus, cpu, policy) if _could_be_better(found, gpus) else ()),
        ),
    )


def _on_gpus(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> _Found | None:
    layers = chat.info.layers
    for aside in _tables(chat):
        partly = aside and chat.runs_on != "llama_cpp"
        if partly and not policy.partial:
            continue
        for pool in gpus:
            shares = lay(chat, context, [pool], cpu, on_gpu=layers, embedding_on_cpu=aside)
            if shares is not None:
                return "partial" if partly else "whole", context, shares, layers, aside
        if len(gpus) > 1:
            shares = lay(chat, context, gpus, cpu, on_gpu=layers, embedding_on_cpu=aside)
            if shares is not None:
                return "partial" if partly else "spread", context, shares, layers, aside
    return None


def _with_less(
    chat: Chat, wanted: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> _Found | None:
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


def _in_part(chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None) -> _Found | None:
    for on_gpu in range(chat.info.layers - 1, 0, -1):
        for aside in _tables(chat):
            shares = lay(chat, context, gpus, cpu, on_gpu=on_gpu, embedding_on_cpu=aside)
            if shares is not None:
                return "partial", context, shares, on_gpu, aside
    return None


def _on_cpu(chat: Chat, context: int, cpu: Pool | None) -> _Found | None:
    shares = lay(chat, context, (), cpu, on_gpu=0, embedding_on_cpu=True)
    return None if shares is None else ("cpu", context, shares, 0, True)


def _tables(chat: Chat) -> tuple[bool, ...]:
    """Where the embedding table may lie: with llama.cpp on the CPU, else on the GPU at first."""
    if chat.runs_on == "llama_cpp":
        return (True,)
    return (False,) if chat.info.tied else (False, True)


def _output_on_gpu(chat: Chat, on_gpu: int) -> bool:
    return chat.runs_on == "llama_cpp" or on_gpu == chat.info.layers


def _could_be_better(found: _Found, gpus: Sequence[Pool]) -> bool:
    return found[0] == "partial" or (found[0] == "cpu" and bool(gpus))


def _reason(chat: Chat, wanted: int, found: _Found, gpus: Sequence[Pool], policy: Policy) -> str:
    decision, context, shares, on_gpu, aside = found
    layers = chat.info.layers
    where = ", ".join(f"{size(share.bytes)} on {share.device}" for share in shares)
    if dropped := sum(share.bytes - share.kept for share in shares):
        where += f", {size(dropped)} of which may go: the file's own copy of what lies there twice"
    cut = (
        f", with a context of {context:,} instead of {wanted:,} tokens" if context < wanted else ""
    )
    if decision == "whole":
        return f"fits{cut}: {where}"
    if decision == "spread":
        return f"needs several GPUs{cut}: {where}"
    if decision == "partial":
        table = " and the embedding table" if aside and chat.runs_on != "llama_cpp" else ""
        rest = f"{layers - on_gpu} of {layers} layers" if on_gpu < layers else ""
        kept = f"{rest}{table}".removeprefix(" and ")
        one = layers - on_gpu + bool(table) == 1
        stay = "stays" if one else "stay"
        return f"too large for the GPU: {kept} {stay} on the CPU{cut}: {where}"
    why = "not one layer fits on a GPU" if policy.partial else "too large for a GPU, undivided"
    why = why if gpus else "there is no GPU"
    return f"{why}{cut}: {where}"


def _refused(
    chat: Chat, context: int, gpus: Sequence[Pool], cpu: Pool | None, policy: Policy
) -> ComponentPlan:
    smallest = context if chat.context else min(context, policy.min_context)
    room = Pool("cpu", "cpu", "", "float32", None, 1 << 62, 0)
    shares = lay(chat, smallest, (), room, on_gpu=0, embedding_on_cpu=True) or ()
    needed = sum(share.bytes for share in shares)
    left = [f"{size(pool.left)} on {pool.device}" for pool in (*gpus, *((cpu,) if cpu else ()))]
    most = most_left([*gpus, *((cpu,) if cpu else ())])
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
