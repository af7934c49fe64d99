"""A plan as options of the back ends, and its comparison with what they took."""

from __future__ import annotations

from langchain_gpu.events import Listener, warn_plan
from langchain_gpu.planner.terms import MIB, ComponentPlan, Plan, size

# What a driver says is free changes with every program on the machine.
_SLACK = 256 * MIB
_OFF = 1.1


class DoesNotFitError(MemoryError):
    """No memory holds the model; the message says what is missing, and what would fit."""

    def __init__(self, planned: ComponentPlan) -> None:
        hints = "".join(f"\n  try: {line}" for line in planned.suggestions)
        super().__init__(f"{planned.model} {planned.reason}{hints}")
        self.planned = planned


def component_of(plan: Plan | ComponentPlan, role: str, model: str) -> ComponentPlan:
    """Return the part of a plan that is about a model.

    Args:
        plan: A whole plan, or already the part.
        role: What the model is used for.
        model: Its name or path.

    Raises:
        ValueError: The plan has nothing about it, or more than one such component.
        DoesNotFitError: The plan refuses it.
    """
    if isinstance(plan, Plan):
        found = [each for each in plan.components if each.role == role]
        exact = [each for each in found if model in {each.model, each.name}]
        found = exact or found
        if len(found) != 1:
            names = ", ".join(f"{each.name} ({each.role})" for each in plan.components) or "none"
            raise ValueError(
                f"the plan has {len(found)} components with the role {role!r}"
                f"{f' for {model}' if model else ''}, and one is needed; it has: {names}"
            )
        plan = found[0]
    if plan.decision == "refused":
        raise DoesNotFitError(plan)
    return plan


def main_device(planned: ComponentPlan) -> str:
    """Return the short name of the device that computes: the first GPU, or the CPU."""
    gpus = [share.device for share in planned.shares if share.device != "cpu"]
    return gpus[0] if gpus else "cpu"


def tensor_split(planned: ComponentPlan) -> tuple[float, ...]:
    """Return llama.cpp's shares of the layers per GPU, in the order of their numbers.

    Empty where one GPU has all of them.
    """
    gpus = {share.device: share.layers or 0 for share in planned.shares if share.device != "cpu"}
    if len(gpus) < 2:  # noqa: PLR2004 - nothing to split
        return ()
    last = max(int(name.partition(":")[2] or 0) for name in gpus)
    kind = next(iter(gpus)).partition(":")[0]
    return tuple(float(gpus.get(f"{kind}:{number}", 0)) for number in range(last + 1))


def check_taken(
    planned: ComponentPlan,
    device: str,
    before: int | None,
    after: int | None,
    listener: Listener | None,
) -> str:
    """Compare what a model took on a device with its plan, and warn where the plan was wrong.

    Args:
        planned: The plan.
        device: Short name.
        before: Bytes that were free there before it was loaded; None where nobody can tell.
        after: The same, once it was.
        listener: Is told of it.

    Returns:
        Both numbers in words.
    """
    promised = planned.on(device)
    if before is None or after is None:
        return f"{size(promised)} planned on {device}"
    taken = before - after
    if taken > promised * _OFF + _SLACK:
        warn_plan(
            listener,
            what=planned.name,
            device=device,
            planned_bytes=promised,
            measured_bytes=taken,
        )
    return f"{size(taken)} taken on {device}, {size(promised)} planned"


__all__ = ["DoesNotFitError", "check_taken", "component_of", "main_device", "tensor_split"]
