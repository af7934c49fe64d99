"""Which quantizations of a model would fit, by its repository's files or by estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain_gpu.hardware.devices import Device
from langchain_gpu.models.headers import list_quantizations, read_info
from langchain_gpu.models.resolve import ModelNotFoundError
from langchain_gpu.planner import Chat, Component, Policy
from langchain_gpu.planner import plan as make_plan
from langchain_gpu.planner.suggest import BITS, with_bits


def quantizations(
    components: Sequence[Component], devices: Sequence[Device], policy: Policy
) -> list[dict[str, Any]]:
    """Plan the first chat model once for each of its quantizations, the largest first.

    Args:
        components: All that is to be placed; the others stay as they are.
        devices: Where.
        policy: What must be respected.

    Raises:
        ValueError: There is no chat model among them.
    """
    chat = next((each for each in components if isinstance(each, Chat)), None)
    if chat is None:
        raise ValueError("only chat models come in GGUF quantizations to choose among")
    found = []
    for name, smaller, estimated in _choices(chat):
        others = [each for each in components if each is not chat]
        planned = make_plan([smaller, *others], devices, policy)[chat.name]
        found.append(
            {
                "name": name,
                "weights_bytes": smaller.info.weight_bytes,
                "decision": planned.decision,
                "estimated": estimated,
            }
        )
    return found


def _choices(chat: Chat) -> list[tuple[str, Chat, bool]]:
    model = chat.info.name.partition(":")[0]
    try:
        listed = [name for name, _ in reversed(list_quantizations(model))]
    except ModelNotFoundError:
        listed = []
    if len(listed) < 2:  # noqa: PLR2004 - one is no choice
        return [
            (name, replace(chat, info=with_bits(chat.info, name), engine=None, dtype=None), True)
            for name in BITS
        ]
    return [
        (
            name,
            replace(chat, info=read_info(model, quantization=name), engine=None, dtype=None),
            False,
        )
        for name in listed
    ]
