"""A converted program, rewritten so that OpenVINO's CPU plugin runs it faster.

Nothing here changes what is computed, and the proof after the conversion holds it to that. What
changes is what the plugin makes of it: which node a scale becomes a part of, how often the hidden
states are read and written between two matrix products, which transpose is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from numpy.typing import NDArray

from langchain_gpu.engine.runtimes.openvino_first_token import first_token_only
from langchain_gpu.engine.runtimes.openvino_nodes import ATTENTION_INPUTS, constant, is_kind

_HEADS_FIRST = [0, 2, 1, 3]
_LAST_TWO = [0, 1, 3, 2]
_MATRIX = 2  # axes
_LARGE_TABLE = 1 << 27  # bytes in float32


def rewrite(program: Any, *, single: bool) -> None:
    """Rewrite a program in place, for any device.

    Args:
        program: Just converted, with float32 weights.
        single: Whether the token types of its inputs are always zero, as those of single texts are.
    """
    fold_norms(program)
    if single:
        drop_token_types(program)
    program.validate_nodes_and_infer_types()
    first_token_only(program)
    program.validate_nodes_and_infer_types()


def for_cpu(program: Any, hint: str) -> Any:
    """Return a copy of a program as the CPU plugin wants it; weights are shared.

    Args:
        program: Left as it is: other plugins have kernels of their own for fused attention.
        hint: What it will be computed in, as OpenVINO calls it.
    """
    program = program.clone()
    write_attention_out(program)
    if hint == "bf16":
        round_tables(program)
    program.validate_nodes_and_infer_types()
    return program


def write_attention_out(program: Any) -> None:
    """Replace fused attention by products, sum and softmax, the keys turned in two steps.

    The plugin takes fused attention apart in any case, and turns the keys from (rows, tokens,
    heads, width) to (rows, heads, width, tokens) at once. In two steps, of which its kernel for
    attention takes one, turning costs a third.
    """
    for node in list(_of(program, "ScaledDotProductAttention")):
        if node.get_input_size() != ATTENTION_INPUTS or node.get_attributes()["causal"]:
            continue
        query, key, value, mask, scale = node.input_values()
        added = mask.get_element_type() == query.get_element_type()  # a mask of booleans chooses
        if not added or len(key.get_partial_shape()) != len(_HEADS_FIRST):
            continue
        factor = constant(scale)
        if factor is None or factor.size != 1 or factor.item() != 1:
            continue
        scores = ops.matmul(query, _turned(key), transpose_a=False, transpose_b=False)
        seen = ops.softmax(ops.add(scores, mask), -1)
        _replace(node, ops.matmul(seen, value, transpose_a=False, transpose_b=False))


def _turned(key: Any) -> Any:
    """Transpose the last two axes of keys of the shape (rows, heads, tokens, width)."""
    orders = []
    root = key.get_node()
    while is_kind(root, "Transpose"):
        order = constant(root.input_value(1))
        if order is None:
            break
        orders.append(order.tolist())
        root = root.input_value(0).get_node()
    if np.array_equal(_composed(orders), _HEADS_FIRST):
        key = ops.transpose(root.output(0), np.array(_HEADS_FIRST))
    return ops.transpose(key, np.array(_LAST_TWO))


def _composed(orders: list[list[int]]) -> NDArray[np.int64]:
    """Return what transposes do together, given from the last to the first."""
    axes = np.arange(4)
    for order in reversed(orders):
        axes = axes[order]
    return axes


def fold_norms(program: Any) -> None:
    """Move the scale and the shift of each layer norm into what reads it.

    Products get them in their weights; a sum with the residual gets the shift from the bias of the
    product beside it, and its scale is part of the same node. One pass over the hidden states less.
    """
    for norm in list(_of(program, "MVN")):
        scaled = _only_reader(norm, "Multiply")
        shifted = None if scaled is None else _only_reader(scaled, "Add")
        if scaled is None or shifted is None:
            continue
        gain, shift = constant(scaled.input_value(1)), constant(shifted.input_value(1))
        if gain is None or shift is None or gain.size != shift.size:
            continue
        readers = [
            each for each in _readers(shifted) if each.get_node().get_type_name() != "ShapeOf"
        ]
        products = [each for each in readers if _is_product(each)]
        sums = [each for each in readers if _is_residual(each)]
        if not products or len(sums) > 1 or len(products) + len(sums) != len(readers):
            continue
        for each in products:
            _fold_into_product(each, norm, gain.reshape(-1), shift.reshape(-1))
        for each in sums:
            total = each.get_node()
            beside = ops.add(total.input_value(1 - each.get_index()), shift)
            # The scaled one first: the plugin makes one node of it and what its result goes into.
            _replace(total, ops.add(scaled.output(0), beside))
        for each in _readers(shifted):
            each.replace_source_output(norm.output(0))  # its shape is all that is still asked


def _fold_into_product(
    reader: Any, norm: Any, gain: NDArray[np.float32], shift: NDArray[np.float32]
) -> None:
    """Let a product read the bare norm, its weights scaled, and add what the shift would give."""
    product = reader.get_node()
    stored = constant(product.input_value(1))
    assert stored is not None  # noqa: S101 - else it is not such a product
    rows = product.get_attributes()["transpose_b"]  # weights of the shape (outputs, inputs)
    weights = (stored if rows else stored.T).astype(np.float64)
    scaled = (weights * gain).astype(np.float32)
    product.input(1).replace_source_output(
        ops.constant(np.ascontiguousarray(scaled if rows else scaled.T)).output(0)
    )
    reader.replace_source_output(norm.output(0))
    if shift.any():
        after = _readers(product)
        biased = ops.add(product.output(0), (weights @ shift).astype(np.float32)[None, None])
        for each in after:
            each.replace_source_output(biased.output(0))


def _is_product(reader: Any) -> bool:
    """Whether it is the left side of a product with weights of two axes."""
    product = reader.get_node()
    if not is_kind(product, "MatMul") or reader.get_index() != 0:
        return False
    weights = product.input_value(1)
    turned = product.get_attributes()["transpose_a"]
    return (
        is_kind(weights.get_node(), "Constant")
        and len(weights.get_shape()) == _MATRIX
        and not turned
    )


def _is_residual(reader: Any) -> bool:
    """Whether it is a sum with a biased product that nobody else reads."""
    total = reader.get_node()
    if not is_kind(total, "Add"):
        return False
    other = total.input_value(1 - reader.get_index()).get_node()
    biased = is_kind(other, "Add") and is_kind(other.input_value(1).get_node(), "Constant")
    return biased and len(_readers(other)) == 1


def drop_token_types(program: Any) -> None:
    """Take the first token type for all tokens; the input stays, and nobody reads it."""
    for node in list(_of(program, "Gather")):
        index = node.input_value(1).get_node()
        while is_kind(index, "Convert"):
            index = index.input_value(0).get_node()
        if not is_kind(index, "Parameter") or "token_type_ids" not in index.output(0).names:
            continue
        table = constant(node.input_value(0))
        if table is not None and table.ndim == _MATRIX:
            _replace(node, ops.constant(table[:1][None]))


def round_tables(program: Any) -> None:
    """Look embeddings up in bfloat16, for a program computed in that.

    The plugin rounds what it looked up; rounding the table gives the same numbers from half the
    bytes. Large tables stay: their model is large as well, and they are read where they lie, in
    the file, of which a rounded one would be a copy.
    """
    for node in list(_of(program, "Gather")):
        table = node.input_value(0)
        if not is_kind(table.get_node(), "Constant") or table.get_element_type() != ov.Type.f32:
            continue
        size = int(np.prod(table.get_shape())) * table.get_element_type().size
        if len(table.get_shape()) == _MATRIX and size <= _LARGE_TABLE:
            rounded = ov.Tensor(ov.Type.bf16, table.get_shape())
            # Bits of another type: numpy has no bfloat16.
            rounded.data[:] = _upper_halves(table.get_node().data).view(np.float16)
            found = ops.gather(ov.op.Constant(rounded), node.input_value(1), node.input_value(2))
            _replace(node, ops.convert(found, "f32"))


def _upper_halves(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to bfloat16, to the nearest and of two to the even one; any shape, none of it NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _of(program: Any, kind: str) -> Iterator[Any]:
    return (node for node in program.get_ordered_ops() if is_kind(node, kind))


def _readers(node: Any) -> list[Any]:
    return list(node.output(0).get_target_inputs())


def _only_reader(node: Any, kind: str) -> Any:
    """Return what reads a node, if it is one node of this kind that reads it on the left."""
    readers = _readers(node)
    if len(readers) != 1 or readers[0].get_index() != 0:
        return None
    reader = readers[0].get_node()
    return reader if is_kind(reader, kind) else None


def _replace(old: Any, new: Any) -> None:
    for each in _readers(old):
        each.replace_source_output(new.output(0))
