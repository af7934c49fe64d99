from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_gpu.engine.batching import BatchRules
from tests.unit_tests.planned_batches import plan_batches

lengths = st.lists(st.integers(0, 600), max_size=400)


@given(lengths, st.integers(1, 4096), st.none() | st.integers(1, 64))
def test_every_index_once_longest_first_budget_kept(
    sizes: list[int], max_tokens: int, max_items: int | None
) -> None:
    batches = plan_batches(sizes, max_tokens=max_tokens, max_items=max_items)
    order = [int(row) for batch in batches for row in batch.rows]
    assert sorted(order) == list(range(len(sizes)))
    in_order = [sizes[row] for row in order]
    assert in_order == sorted(sizes, reverse=True)
    for batch in batches:
        assert batch.tokens == sum(sizes[row] for row in batch.rows)
        assert batch.width == max(1, *(sizes[row] for row in batch.rows))
        assert batch.padded_tokens == len(batch.rows) * batch.width
        assert batch.padded_tokens <= max_tokens or len(batch.rows) == 1
        assert max_items is None or len(batch.rows) <= max_items


def test_the_last_batch_alone_may_be_small() -> None:
    batches = plan_batches([10] * 100, max_tokens=160)
    assert [len(batch.rows) for batch in batches] == [16] * 6 + [4]


def test_sorted_and_budgeted_beats_either_alone() -> None:
    """20,000 log-normal lengths, as a corpus has them: about one percent of padding."""
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(4.6, 0.8, 20_000).astype(int) + 2, 512)
    batches = plan_batches(sizes, max_tokens=16_384)
    padded = sum(batch.padded_tokens for batch in batches)
    assert padded / sizes.sum() < 1.02
    assert len(batches) < 1.1 * sizes.sum() / 16_384 + 2


@pytest.mark.parametrize(("max_tokens", "max_items"), [(0, None), (-1, None), (10, 0)])
def test_limits_below_one(max_tokens: int, max_items: int | None) -> None:
    with pytest.raises(ValueError, match="limits must be >= 1"):
        plan_batches([1], max_tokens=max_tokens, max_items=max_items)


def test_a_negative_length_is_named() -> None:
    with pytest.raises(ValueError, match="item 1 has the negative length -3"):
        plan_batches([1, -3], max_tokens=10)


def test_nothing_to_plan() -> None:
    assert plan_batches([], max_tokens=10) == []


def test_narrow_rows_are_rounded_in_finer_steps() -> None:
    rules = BatchRules(multiple_of=16, fine=True)
    widths = {longest: rules.width(longest) for longest in range(1, 600)}
    assert all(width >= longest for longest, width in widths.items())
    assert all(width <= longest * 1.25 + 1 for longest, width in widths.items())
    assert all(width % 16 == 0 for longest, width in widths.items() if longest >= 64)
    assert len(set(widths.values())) < 60
    assert BatchRules(multiple_of=16).width(3) == 16
