"""Rewritten programs: the same numbers, by fewer and other nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
import pytest
from sentence_transformers import CrossEncoder

from langchain_gpu.engine.runtimes.openvino_core import core
from langchain_gpu.engine.runtimes.openvino_graph import (
    drop_token_types,
    fold_norms,
    for_cpu,
    rewrite,
    write_attention_out,
)
from tests.unit_tests.traced_programs import (
    IDS,
    SEEN,
    computed,
    embedder,
    inputs,
    kinds,
    traced,
    unevenly,
)

Tiny = Callable[[str], str]
EMBEDDERS = [
    "bert",
    "roberta-cls",
    "xlm-roberta",
    "modernbert",
    "mpnet",
    "qwen3-last-token",
    "gemma3-long",
    "t5",
]


def readers(program: Any, kind: str) -> list[set[str]]:
    """What of the program reads the nodes of a kind."""
    read: dict[str, set[str]] = {}
    for node in program.get_ordered_ops():
        for each in node.input_values():
            source = each.get_node().get_friendly_name()
            read.setdefault(source, set()).add(node.get_type_name())
    nodes = (node for node in program.get_ordered_ops() if node.get_type_name() == kind)
    return [read[node.get_friendly_name()] for node in nodes]


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_same_numbers(tiny: Tiny, name: str) -> None:
    program, given = embedder(tiny(name))
    before = computed(program, given)
    rewrite(program, single=True)
    assert np.allclose(computed(for_cpu(program, "f32"), given), before, rtol=1e-4, atol=1e-5)


def test_attention_is_written_out_with_keys_turned_in_two_steps(tiny: Tiny) -> None:
    fused, _ = embedder(tiny("bert"))
    layers = kinds(fused).count("ScaledDotProductAttention")
    assert layers
    program = for_cpu(fused, "f32")
    assert kinds(fused).count("ScaledDotProductAttention") == layers, "for other devices"
    assert "ScaledDotProductAttention" not in kinds(program)
    assert kinds(program).count("Softmax") == layers
    turned = [nodes for nodes in readers(program, "Transpose") if nodes == {"Transpose"}]
    assert len(turned) == layers


@pytest.mark.parametrize(
    ("scale", "mask", "heads", "left"),
    [
        (1.0, np.float32, [2], 0),
        (0.5, np.float32, [2], 1),
        (1.0, np.bool_, [2], 1),
        (1.0, np.float32, [], 1),
    ],
    ids=["as-converted", "own-scale", "mask-of-booleans", "no-heads"],
)
def test_other_attention_is_left_alone(
    scale: float, mask: type, heads: list[int], left: int
) -> None:
    states = [ops.parameter([-1, *heads, -1, 4], np.float32) for _ in range(3)]
    seen = ops.parameter([-1, *(1 for _ in heads), 1, -1], mask)
    factor = ops.constant(np.float32(scale))
    node = ops.scaled_dot_product_attention(*states, seen, factor)
    program = openvino.Model([node], [*states, seen])
    write_attention_out(program)
    assert kinds(program).count("ScaledDotProductAttention") == left


class TestTables:
    @staticmethod
    def of(program: Any) -> set[str]:
        """The types of what is looked up in."""
        return {
            node.get_input_element_type(0).get_type_name()
            for node in program.get_ordered_ops()
            if node.get_type_name() == "Gather" and len(node.get_input_partial_shape(0)) == 2
        }

    def test_rounded_they_give_the_same_numbers_in_bfloat16(self, tiny: Tiny) -> None:
        program, given = embedder(tiny("bert"))
        rounded = for_cpu(program, "bf16")
        assert (self.of(rounded), self.of(program)) == ({"bf16"}, {"f32"})
        assert np.allclose(computed(rounded, given), computed(program, given), atol=0.02)
        if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            exact = for_cpu(program, "f32")
            found, wanted = (computed(each, given, "bf16") for each in (rounded, exact))
            assert np.array_equal(found, wanted)

    def test_large_ones_stay(self, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
        program, _ = embedder(tiny("bert"))
        monkeypatch.setattr("langchain_gpu.engine.runtimes.openvino_graph._LARGE_TABLE", 100)
        assert self.of(for_cpu(program, "bf16")) == {"f32"}


class TestNorms:
    def test_products_read_the_bare_norm_and_sums_only_its_scale(self, tiny: Tiny) -> None:
        program, _ = embedder(tiny("bert"))
        fold_norms(program)
        *inner, _last = readers(program, "MVN")
        assert inner
        for nodes in inner:
            assert {"MatMul", "Multiply"} <= nodes
        sums = [node for node in program.get_ordered_ops() if node.get_type_name() == "Add"]
        first = [node.input_value(0).get_node().get_type_name() for node in sums]
        assert first.count("Multiply") == len(inner) + 1, "one node of both, in the plugin's hands"

    def test_before_products_only(self) -> None:
        """Where the residual goes round the norm, nothing is left of scale and shift."""
        hidden = ops.parameter([-1, -1, 4], np.float32)
        normed = ops.mvn(hidden, np.array([-1]), True, 1e-6, "inside_sqrt")  # noqa: FBT003
        random = np.random.default_rng(0)
        gain, shift = random.normal(size=(2, 1, 1, 4)).astype(np.float32)
        read = ops.add(ops.multiply(normed, gain), shift)
        weights = random.normal(size=(2, 4, 3)).astype(np.float32)
        one = ops.matmul(read, weights[0], transpose_a=False, transpose_b=False)
        two = ops.matmul(read, weights[1].T.copy(), transpose_a=False, transpose_b=True)
        program = openvino.Model([ops.add(one, two)], [hidden])
        given = {0: random.normal(size=(2, 3, 4)).astype(np.float32)}
        before = computed(program, given)
        fold_norms(program)
        assert readers(program, "MVN") == [{"MatMul"}]
        assert np.allclose(computed(program, given), before, atol=1e-5)

    def test_one_that_is_a_result_itself_keeps_its_scale(self) -> None:
        hidden = ops.parameter([-1, -1, 4], np.float32)
        normed = ops.mvn(hidden, np.array([-1]), True, 1e-6, "inside_sqrt")  # noqa: FBT003
        gain, shift = np.full((2, 1, 1, 4), 3, np.float32)
        read = ops.add(ops.multiply(normed, gain), shift)
        product = ops.matmul(read, np.eye(4, dtype=np.float32), False, False)  # noqa: FBT003
        program = openvino.Model([read, product], [hidden])
        fold_norms(program)
        assert readers(program, "MVN") == [{"Multiply"}]


class TestTokenTypes:
    def test_a_single_text_has_none(self, tiny: Tiny) -> None:
        program, given = embedder(tiny("bert"))
        before = kinds(program).count("Gather")
        drop_token_types(program)
        assert kinds(program).count("Gather") == before - 1
        assert {"token_type_ids"} <= {name for each in program.inputs for name in each.names}
        assert np.isfinite(computed(program, given)).all()

    def test_those_of_pairs_count(self, tiny_reranker: Tiny) -> None:
        modules = CrossEncoder(tiny_reranker("bert"), device="cpu")
        unevenly(modules)
        given = inputs(types=True)
        given["token_type_ids"][:, 2:] = SEEN[:, 2:]
        program = traced(modules, given)
        before = computed(program, given)
        rewrite(program, single=False)
        assert np.allclose(computed(program, given), before, rtol=1e-4, atol=1e-5)
        single = given | {"token_type_ids": np.zeros_like(IDS)}
        assert not np.allclose(computed(program, single), before, rtol=1e-4, atol=1e-5)
