"""Compare a plan with what a runtime allocates."""

from __future__ import annotations

from langchain_gpu.planner import Chat, Component, ComponentPlan, Index
from langchain_gpu.verify.measured import Line, Measured


def verify(component: Component, planned: ComponentPlan) -> Measured:
    """Load a model as planned, let it compute once, and compare.

    A GGUF file is loaded in a process of its own, and llama.cpp's own buffers are counted. A model
    of torch is loaded in this process: its tensors, its cache and the most that lived at a time.

    Args:
        component: What was planned for; a model whose files are on this machine.
        planned: Where it goes.

    Raises:
        TypeError: It is an index.
        ValueError: The plan refused it, spreads a model of torch over several devices, or packs its
            weights.
        ModelNotFoundError: Its files are not here.
        RuntimeError: llama.cpp could not load it, or said nothing of its buffers.
    """
    if isinstance(component, Index):
        raise TypeError(f"{planned.name} is an index: there is nothing to load")
    if planned.decision == "refused":
        raise ValueError(f"{planned.name} cannot be loaded: {planned.reason}")
    on_llama = isinstance(component, Chat) and component.runs_on == "llama_cpp"
    if on_llama or component.info.format == "gguf":
        from langchain_gpu.verify.llama import measure_llama

        return measure_llama(component, planned)
    if len(planned.shares) > 1:
        where = ", ".join(share.device for share in planned.shares)
        raise ValueError(
            f"{planned.name} lies on {where}: a model of torch is measured on one device only; "
            f"take a smaller dtype or a shorter context"
        )
    from langchain_gpu.verify.tensors import measure_chat, measure_encoder

    if isinstance(component, Chat):
        return measure_chat(component, planned)
    return measure_encoder(component, planned)


__all__ = ["Line", "Measured", "verify"]
