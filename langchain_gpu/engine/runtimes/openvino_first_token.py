"""For models that use the first token only: compute the last layer for that token alone.

CLS pooling and the heads of rerankers read the first token of each text. After the last attention
no token depends on the others, so only the first one is computed from there on; of the last layer,
only the keys and values of the others are needed, a sixth of its work. The result is the same.

The program is walked from the node that selects the token towards the inputs, through nodes that do
the same for every token; the token is selected where that ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino.opset13 as ops

from langchain_gpu.engine.runtimes.openvino_nodes import ATTENTION_INPUTS, constant, is_kind

# A node's input and the axis along which its tokens lie.
_Demand = tuple[Any, int]
_TOKENS = 1  # the axis of hidden states, (rows, tokens, width)
_HEADS_APART = 4  # axes of (rows, tokens, heads, width)


def first_token_only(program: Any) -> None:
    """Rewrite a program in place; one that takes no first token stays as it is."""
    for node in program.get_ordered_ops():
        if _takes_first(node):
            cuts, passed = _way_back(program, node)
            if any(is_kind(each, "ScaledDotProductAttention") for each in passed):
                _narrow(cuts, passed)


def _way_back(program: Any, taking: Any) -> tuple[list[_Demand], list[Any]]:
    """Walk back from where the token is taken.

    Returns:
        The inputs at which it can be taken instead, and the nodes behind them.
    """
    demands: dict[str, list[_Demand]] = {}
    _demand(demands, taking.input(0), _TOKENS)
    cuts: list[_Demand] = []
    passed: list[Any] = []
    for node in reversed(program.get_ordered_ops()):
        wanted = demands.get(node.get_friendly_name())
        if wanted is None:
            continue
        axes = {axis for _, axis in wanted}
        alike = len(axes) == 1 and _read_by_these(node, wanted)
        rule = _RULES.get(node.get_type_name())
        inputs = rule(node, axes.pop()) if rule is not None and alike else None
        if inputs is None:
            cuts += wanted
            continue
        passed.append(node)
        for reader, axis in inputs:
            _demand(demands, reader, axis)
    return cuts, passed


def _narrow(cuts: list[_Demand], passed: list[Any]) -> None:
    """Take the token at the cuts."""
    for reader, axis in cuts:
        taken = ops.gather(reader.get_source_output(), np.array([0]), np.array(axis))
        reader.replace_source_output(taken.output(0))
    for node in passed:
        if is_kind(node, "Reshape") and _joins_heads(
            node
        ):  # to as many tokens as there were before
            joined = ops.reshape(node.input_value(0), np.array([0, 0, -1]), special_zero=True)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(joined.output(0))


def _demand(demands: dict[str, list[_Demand]], reader: Any, axis: int) -> None:
    source = reader.get_source_output().get_node()
    demands.setdefault(source.get_friendly_name(), []).append((reader, axis))


def _read_by_these(node: Any, wanted: Sequence[_Demand]) -> bool:
    """Whether nobody else reads a node."""
    readers = [each for output in node.outputs() for each in output.get_target_inputs()]
    return len(node.outputs()) == 1 and len(readers) == len(wanted)


def _same(node: Any, axis: int) -> list[_Demand]:
    return [(node.input(0), axis)]


def _of_pair(node: Any, axis: int) -> list[_Demand]:
    """Inputs that lie along the tokens; others are the same for all of them."""
    rank = len(node.get_output_partial_shape(0))
    placed = ((each, axis - rank + len(each.get_partial_shape())) for each in node.inputs())
    return [(each, own) for each, own in placed if not _one(each.get_partial_shape(), own)]


def _of_norm(node: Any, axis: int) -> list[_Demand] | None:
    over, rank = constant(node.input_value(1)), len(node.get_output_partial_shape(0))
    alone = over is not None and axis not in {int(each) % rank for each in over.reshape(-1)}
    return _same(node, axis) if alone else None


def _of_product(node: Any, axis: int) -> list[_Demand] | None:
    rows = axis == len(node.get_output_partial_shape(0)) - 2
    turned = node.get_attributes()["transpose_a"]
    weights = constant(node.input_value(1)) is not None
    return _same(node, axis) if rows and weights and not turned else None


def _of_transpose(node: Any, axis: int) -> list[_Demand] | None:
    order = constant(node.input_value(1))
    return None if order is None else _same(node, int(order[axis]))


def _of_reshape(node: Any, axis: int) -> list[_Demand] | None:
    kept = axis == _TOKENS and (_splits_heads(node) or _joins_heads(node))
    return _same(node, axis) if kept else None


def _of_attention(node: Any, axis: int) -> list[_Demand] | None:
    """The query, and a mask that has a row for each."""
    if node.get_input_size() != ATTENTION_INPUTS or node.get_attributes()["causal"]:
        return None
    if axis != len(node.get_output_partial_shape(0)) - 2:
        return None
    mask = node.input(3)
    own = len(mask.get_partial_shape()) - 2
    each_query = [] if _one(mask.get_partial_shape(), own) else [(mask, own)]
    return _same(node, axis) + each_query


def _one(shape: Any, axis: int) -> bool:
    """Whether there is nothing along an axis: it is missing, or of size 1."""
    return axis < 0 or (shape[axis].is_static and shape[axis].get_length() == 1)


# From a node that is wanted for one token only, and the axis of its tokens, to the inputs that must
# be so for that, and theirs; None where it cannot be said.
_RULES: dict[str, Callable[[Any, int], list[_Demand] | None]] = {
    **dict.fromkeys(("Convert", "Gelu", "Relu", "Sigmoid", "Swish", "Tanh"), _same),
    **dict.fromkeys(("Add", "Divide", "Multiply", "Subtract"), _of_pair),
    "MVN": _of_norm,
    "MatMul": _of_product,
    "Transpose": _of_transpose,
    "Reshape": _of_reshape,
    "ScaledDotProductAttention": _of_attention,
}


def _takes_first(node: Any) -> bool:
    """Whether it takes the first token of hidden states, and drops the axis."""
    if not is_kind(node, "Gather") or len(node.get_input_partial_shape(0)) != _TOKENS + 2:
        return False
    index, axis = constant(node.input_value(1)), constant(node.input_value(2))
    if index is None or axis is None or index.shape != () or axis.size != 1:
        return False
    return int(index) == 0 and int(axis.item()) == _TOKENS


def _splits_heads(node: Any) -> bool:
    """(rows, tokens, width) to (rows, tokens, heads, width of one)."""
    target = constant(node.input_value(1))
    return (
        target is not None
        and len(target) == _HEADS_APART
        and target[:2].tolist() == [0, 0]
        and node.get_attributes()["special_zero"]
    )


def _joins_heads(node: Any) -> bool:
    """(rows, tokens, heads, width of one) to (rows, tokens, width)."""
    source, result = node.get_input_partial_shape(0), node.get_output_partial_shape(0)
    target = node.input_value(1).get_node()
    parts = 2  # the sizes of the first axes, and -1
    if len(source) != _HEADS_APART or len(result) != _HEADS_APART - 1:
        return False
    if not is_kind(target, "Concat") or target.get_input_size() != parts:
        return False
    rest = constant(target.input_value(1))
    return rest is not None and rest.tolist() == [-1]
