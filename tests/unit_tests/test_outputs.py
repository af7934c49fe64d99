from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from langchain_gpu.engine.outputs import Output, Precision

VECTORS = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def test_plain_vectors_are_not_copied() -> None:
    assert Output().apply(VECTORS) is VECTORS


def test_fewer_dimensions_keep_their_direction_and_their_length() -> None:
    found = Output(truncate_dim=16).apply(VECTORS)
    assert found.shape == (200, 16)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    cut = VECTORS[:, :16]
    assert np.allclose((found * cut).sum(1), np.linalg.norm(cut, axis=1), atol=1e-6)
    long = Output(truncate_dim=16).apply(VECTORS * 7)
    assert np.allclose(np.linalg.norm(long, axis=1), 7, atol=1e-5)


def test_more_dimensions_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="truncate_dim=65, but the model's vectors have 64"):
        Output(truncate_dim=65).apply(VECTORS)


def test_int8_keeps_the_cosine_and_uses_the_range() -> None:
    found = Output(precision="int8").apply(VECTORS)
    assert found.dtype == np.int8
    assert (np.abs(found.astype(int)).max(axis=1) == 127).all()
    wide = found.astype(np.float32)
    cosines = (wide * VECTORS).sum(1) / np.linalg.norm(wide, axis=1)
    assert cosines.min() > 0.9999


def test_int8_of_a_vector_does_not_depend_on_the_others() -> None:
    together = Output(precision="int8").apply(VECTORS)
    alone = Output(precision="int8").apply(VECTORS[7:8])
    assert np.array_equal(together[7:8], alone)


def test_float16_vectors_are_close_to_the_originals() -> None:
    found = Output(precision="float16").apply(VECTORS)
    assert found.dtype == np.float16
    assert np.allclose(found, VECTORS, atol=1e-3)


@given(arrays(np.float32, (3, 8), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_finite_vectors_stay_finite(vectors: np.ndarray) -> None:
    for precision in get_args(Precision):
        if precision == "float16":
            vectors = np.clip(vectors, -6e4, 6e4)
        found = Output(truncate_dim=4, precision=precision).apply(np.clip(vectors, -100, 100))
        assert found.shape == (3, 4)
        assert np.isfinite(found.astype(np.float64)).all()


@pytest.mark.parametrize("precision", get_args(Precision))
def test_no_vectors_and_zeros(precision: Precision) -> None:
    output = Output(truncate_dim=2, precision=precision)
    assert output.apply(np.empty((0, 4), np.float32)).shape == (0, 2)
    assert not output.apply(np.zeros((2, 4), np.float32)).any()
