"""Helpers to look at the nodes of an OpenVINO program."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ATTENTION_INPUTS = 5
"""Of fused attention as our conversion writes it: query, key, value, mask, scale."""


def is_kind(node: Any, kind: str) -> bool:
    """Whether a node is of a kind, by OpenVINO's name for it."""
    return bool(node.get_type_name() == kind)


def constant(output: Any) -> NDArray[Any] | None:
    """Return the values behind an output, None where they are computed."""
    node = output.get_node()
    return np.array(node.data) if is_kind(node, "Constant") else None


__all__ = ["ATTENTION_INPUTS", "constant", "is_kind"]
