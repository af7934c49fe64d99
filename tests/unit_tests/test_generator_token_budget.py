"""The bound on a batch of chats: down where memory runs out, up again with patience."""

from __future__ import annotations

from langchain_gpu.generators.token_budget import TokenBudget
from langchain_gpu.utils.backoff import INITIAL_WAIT


def tries(budget: TokenBudget, rows: int) -> int:
    """Batches of 10 tokens a row that go well before more is tried."""
    count = 1
    while budget.finished(rows, 10) is None:
        count += 1
        assert count < 10_000
    return count


def test_half_of_what_failed_is_allowed() -> None:
    budget = TokenBudget()
    assert budget.failed(5, 10) == 50
    assert budget.tokens == 30
    assert budget.failed(3, 10) == 30
    assert budget.tokens == 20
    assert budget.failed(8, 10) == 20  # a late one changes nothing
    assert budget.tokens == 20


def test_it_comes_back_after_enough_full_batches() -> None:
    budget = TokenBudget()
    budget.failed(8, 10)
    assert tries(budget, 4) == 2 * INITIAL_WAIT
    assert budget.tokens == 80


def test_every_failure_asks_for_more_patience() -> None:
    budget = TokenBudget()
    budget.failed(8, 10)
    tries(budget, 4)
    budget.failed(8, 10)
    assert tries(budget, 4) == 4 * INITIAL_WAIT


def test_small_batches_and_single_rows_say_nothing() -> None:
    budget = TokenBudget()
    assert budget.finished(8, 10) is None  # there is no bound
    budget.failed(8, 10)
    for _ in range(10 * INITIAL_WAIT):
        assert budget.finished(2, 10) is None
        assert budget.finished(1, 1000) is None
    assert budget.tokens == 40
