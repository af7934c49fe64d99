"""The last layer for the first token only: the same numbers, and really only that token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
import pytest
from sentence_transformers import CrossEncoder

from langchain_gpu.engine.runtimes.openvino_first_token import first_token_only
from langchain_gpu.engine.runtimes.openvino_graph import for_cpu, rewrite
from tests.unit_tests.traced_programs import (
    SEEN,
    computed,
    embedder,
    inputs,
    kinds,
    traced,
    unevenly,
)

Tiny = Callable[[str], str]


def queries(program: Any) -> list[bool]:
    """Of each attention, first layer first, whether it has one query for each text."""
    shapes = [
        node.get_input_partial_shape(0)
        for node in program.get_ordered_ops()
        if node.get_type_name() == "ScaledDotProductAttention"
    ]
    return [shape[2].is_static and shape[2].get_length() == 1 for shape in shapes]


def test_cls_pooling(tiny: Tiny) -> None:
    program, given = embedder(tiny("roberta-cls"))
    before = computed(program, given)
    rewrite(program, single=True)
    *others, last = queries(program)
    assert last
    assert not any(others)
    for hint in ("f32", "bf16"):
        after = computed(for_cpu(program, hint), given, hint)
        assert np.allclose(after, before, rtol=1e-4, atol=1e-5 if hint == "f32" else 0.05)


def test_the_head_of_a_reranker(tiny_reranker: Tiny) -> None:
    model = CrossEncoder(tiny_reranker("bert"), device="cpu")
    unevenly(model)
    given = inputs(types=True) | {"token_type_ids": np.triu(SEEN)}
    program = traced(model, given)
    before = computed(program, given)
    rewrite(program, single=False)
    assert queries(program)[-1]
    assert np.allclose(computed(for_cpu(program, "f32"), given), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "mpnet", "qwen3-last-token", "t5"])
def test_other_pooling_sees_all_tokens(tiny: Tiny, name: str) -> None:
    program, _ = embedder(tiny(name))
    before = kinds(program)
    first_token_only(program)
    assert kinds(program) == before


def attended(*, readers: int = 1, index: int = 0, causal: bool = False, axis: int = 1) -> Any:
    """One attention over (rows, tokens, 4), of which one token is taken, or its mean as well."""
    states = ops.parameter([-1, -1, 4], np.float32)
    apart = ops.transpose(
        ops.reshape(states, np.array([0, 0, 2, 2]), special_zero=True), np.array([0, 2, 1, 3])
    )
    node = ops.scaled_dot_product_attention(
        apart,
        apart,
        apart,
        ops.constant(np.zeros((1, 1, 1, 1), np.float32)),
        ops.constant(np.float32(1)),
        causal=causal,
    )
    size = ops.gather(ops.shape_of(states), np.array([0, 1]), np.array(0))
    target = ops.concat([size, np.array([-1])], 0)
    joined = ops.reshape(ops.transpose(node, np.array([0, 2, 1, 3])), target, special_zero=False)
    taken = ops.gather(joined, np.array(index), np.array(axis))
    results = [taken, ops.reduce_mean(joined, np.array([1]))][:readers]
    return openvino.Model(results, [states])


@pytest.mark.parametrize(
    ("program", "narrowed"),
    [
        (attended(), 1),
        (attended(readers=2), 0),
        (attended(index=1), 0),
        (attended(causal=True), 0),
        (attended(axis=0), 0),
    ],
    ids=["first", "mean-too", "second-token", "causal", "first-text"],
)
def test_only_where_nobody_else_looks(program: Any, narrowed: int) -> None:
    states = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    before = computed(program, [states])
    first_token_only(program)
    program.validate_nodes_and_infer_types()
    assert sum(queries(program)) == narrowed
    assert np.allclose(computed(program, [states]), before, atol=1e-6)
