from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_gpu.engine.batching import Batch, BatchRules, Plan
from langchain_gpu.engine.cuts import BatchPrice
from tests.unit_tests.planned_batches import plan_batches

PRICE = BatchPrice(start=140, attention=0.002)
PRICED = BatchRules(multiple_of=16, fine=True, price=PRICE)
FILLED = BatchRules(multiple_of=16, fine=True)

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


def cost(batches: list[Batch]) -> float:
    return sum(PRICE(len(batch.rows), batch.width) for batch in batches)


@given(lengths, st.integers(1, 4096), st.none() | st.integers(1, 64))
def test_priced_batches_keep_the_limits_and_never_cost_more(
    sizes: list[int], max_tokens: int, max_items: int | None
) -> None:
    batches, filled = (
        plan_batches(sizes, max_tokens=max_tokens, max_items=max_items, rules=rules)
        for rules in (PRICED, FILLED)
    )
    order = [int(row) for batch in batches for row in batch.rows]
    assert sorted(order) == list(range(len(sizes)))
    assert [sizes[row] for row in order] == sorted(sizes, reverse=True)
    for batch in batches:
        assert batch.padded_tokens == len(batch.rows) * batch.width
        assert batch.padded_tokens <= max_tokens or len(batch.rows) == 1
        assert max_items is None or len(batch.rows) <= max_items
    assert cost(batches) <= cost(filled) + 1e-6


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(16, 2048))
def test_no_other_batches_of_thirds_cost_much_less(sizes: list[int], max_tokens: int) -> None:
    """Held against all of them, by dynamic programming from the end."""
    widths = [PRICED.width(size) for size in sorted(sizes, reverse=True)]
    best = [0.0] * (len(widths) + 1)
    for start in reversed(range(len(widths))):
        full = max(1, min(max_tokens // widths[start], len(widths)))
        third = -(-full // 3)
        ends = {min(start + rows, len(widths)) for rows in (third, min(2 * third, full), full)}
        best[start] = min(PRICE(end - start, widths[start]) + best[end] for end in ends)
    found = cost(plan_batches(sizes, max_tokens=max_tokens, rules=PRICED))
    assert best[0] - 1e-6 <= found <= best[0] * 1.1


def test_few_rows_of_many_lengths_are_not_padded_to_the_longest() -> None:
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.lognormal(4.6, 0.8, 185).astype(int) + 2, 512)
    padding = {
        rules: sum(
            batch.padded_tokens for batch in plan_batches(sizes, max_tokens=2048, rules=rules)
        )
        / sizes.sum()
        for rules in (PRICED, FILLED)
    }
    assert padding[PRICED] < 1.09
    assert padding[FILLED] > 1.12


def test_cuts_follow_a_budget_that_changes_under_way() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(3, 200, 500)
    plan, order, budgets = Plan(sizes), [], iter([2048, 512, 2048, 2048, 100] * 500)
    while (batch := plan.take(budget := next(budgets), rules=PRICED)) is not None:
        assert batch.padded_tokens <= budget or len(batch.rows) == 1
        order += batch.rows.tolist()
    assert sorted(order) == list(range(500))
