from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from langchain_gpu.engine import budgets as module
from langchain_gpu.engine.budgets import Budget, Budgets, default_budget
from langchain_gpu.events import BudgetChanged
from langchain_gpu.hardware.devices import Device
from langchain_gpu.utils.backoff import INITIAL_WAIT
from tests.unit_tests.fake_encoder import CPU, GPU, FakeEncoder


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_learned", {})


class Card(FakeEncoder):
    """A card on which a token takes so many bytes, and so many tokens fit."""

    def __init__(self, per_token: int, fits: int = 10**9) -> None:
        super().__init__()
        self.per_token, self.fits = per_token, fits
        self.probes: list[int] = []

    def peak_bytes(self, tokens: int) -> int | None:
        self.probes.append(tokens)
        if tokens > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return tokens * self.per_token


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 10_000_000)


@pytest.mark.usefixtures("free")
def test_plenty_of_memory_leaves_the_default() -> None:
    assert Budgets("m").first(Card(per_token=10)).tokens == default_budget(GPU)


@pytest.mark.usefixtures("free")
def test_bytes_per_token_set_the_budget() -> None:
    assert Budgets("m").first(Card(per_token=1000)).tokens == 8000  # 10 MB x 0.8 / 1 kB


@pytest.mark.usefixtures("free")
def test_a_probe_that_does_not_fit_is_halved() -> None:
    card = Card(per_token=1, fits=5000)
    assert Budgets("m").first(card).tokens == 4096
    assert card.probes == [16384, 8192, 4096]


@pytest.mark.usefixtures("free")
def test_where_a_batch_cannot_be_measured_the_default_stays() -> None:
    class Unmeasured(FakeEncoder):
        def peak_bytes(self, tokens: int) -> int | None:
            return None

    assert Budgets("m").first(Unmeasured()).tokens == default_budget(GPU)


class TestMemoryThatOthersTakeAndLeave:
    """Measured where half of a card is somebody else's; a token takes 1 kB."""

    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        free = [5_000_000]
        monkeypatch.setattr(module, "free_memory", lambda _: free[0])
        return free

    def test_what_becomes_free_is_used(self, free: list[int]) -> None:
        budget = Budgets("m").first(Card(per_token=1000))
        assert budget.tokens == 4000
        assert fill(budget, 10 * INITIAL_WAIT) == []
        free[0] = 10_000_000
        assert [each.new_tokens for each in fill(budget, 10 * INITIAL_WAIT)] == [8000]
        free[0] = 80_000_000
        fill(budget, 10 * INITIAL_WAIT)
        assert budget.tokens == default_budget(GPU)

    def test_a_little_more_is_no_reason(self, free: list[int]) -> None:
        budget = Budgets("m").first(Card(per_token=1000))
        free[0] = 6_000_000
        assert fill(budget, 10 * INITIAL_WAIT) == []

    def test_after_a_failure_it_goes_as_far_as_there_is_room(self, free: list[int]) -> None:
        budget = Budgets("m").first(Card(per_token=1000))
        budget.failed(4000)
        free[0] = 4_900_000
        assert [each.new_tokens for each in fill(budget, 10 * INITIAL_WAIT)] == [3920]

    def test_a_probe_that_did_not_fit_says_nothing_for_ever(self, free: list[int]) -> None:
        card = Card(per_token=1000, fits=300)
        budget = Budgets("m").first(card)
        assert budget.tokens == 256
        fill(budget, 10 * INITIAL_WAIT)
        assert budget.tokens == 4000

    @pytest.mark.parametrize(("firm", "most"), [(True, 3000), (False, 16384)])
    def test_a_plan_that_is_a_guess_is_no_bound(
        self, free: list[int], *, firm: bool, most: int
    ) -> None:
        budgets = Budgets("m", planned={str(GPU): 3000}, firm=firm)
        budget = budgets.first(Card(per_token=1000))
        assert budget.tokens == 3000
        free[0] = 80_000_000
        fill(budget, 10 * INITIAL_WAIT)
        assert budget.tokens == most

    def test_where_nobody_can_tell_a_plan_is_all_there_is(self, free: list[int]) -> None:
        budget = Budgets("m", planned={str(GPU): 3000}).first(FakeEncoder())
        free[0] = 80_000_000
        assert fill(budget, 10 * INITIAL_WAIT) == []


def test_a_probe_that_never_fits_raises_what_the_device_raised() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Budgets("m").first(Card(per_token=1, fits=0))


def test_another_error_of_the_probe_is_no_question_of_memory() -> None:
    class Broken(FakeEncoder):
        def peak_bytes(self, tokens: int) -> int | None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        Budgets("m").first(Broken())


def test_the_users_number_is_taken_without_a_probe() -> None:
    card = Card(per_token=1000)
    assert Budgets("m", fixed=50_000).first(card).tokens == 50_000
    assert card.probes == []


def test_what_was_learned_counts_for_the_model_and_the_device() -> None:
    Budgets("m").learn(GPU, 100)
    assert Budgets("m").first(FakeEncoder()).tokens == 100
    assert Budgets("m", fixed=5000).first(FakeEncoder()).tokens == 100
    assert Budgets("m", fixed=50).first(FakeEncoder()).tokens == 50
    assert Budgets("other").first(FakeEncoder()).tokens == default_budget(GPU)
    assert Budgets("m").first(FakeEncoder(device=CPU)).tokens == default_budget(CPU)


def test_a_device_that_cannot_tell_keeps_the_default() -> None:
    class Silent(FakeEncoder):
        def peak_bytes(self, tokens: int) -> int | None:
            return None

    assert Budgets("m").first(Silent()).tokens == default_budget(GPU)


def test_a_server_plans_for_itself() -> None:
    far = Device(kind="remote", name="host", reason="given")
    assert default_budget(far) > 10 * default_budget(GPU)


def test_what_was_learned_only_goes_down() -> None:
    first, second = (Budgets("m").first(FakeEncoder()) for _ in range(2))
    for cost in (16384, 8192):
        first.failed(cost)
    second.failed(16384)
    assert Budgets("m").first(FakeEncoder()).tokens == 4096


def test_what_was_learned_is_where_an_engine_begins_and_not_where_it_ends() -> None:
    Budgets("m").learn(GPU, 100)
    budget = Budgets("m").first(FakeEncoder())
    fill(budget, 8 * INITIAL_WAIT)
    assert budget.tokens == default_budget(GPU)


class TestUpAndDown:
    def test_half_of_what_failed(self) -> None:
        budget = Budget("cuda:0", 1000, most=1000)
        assert budget.failed(900) == BudgetChanged(device="cuda:0", old_tokens=1000, new_tokens=450)
        assert budget.tokens == 450
        budget.failed(2)
        budget.failed(2)
        assert budget.tokens == 1

    def test_a_late_failure_changes_nothing(self) -> None:
        budget = Budget("cuda:0", 4000, most=4000)
        budget.failed(1000)
        for late in (4000, 1500, 1000):
            assert budget.failed(late) is None
        assert budget.tokens == 500

    def test_up_again_and_not_beyond_where_it_began(self) -> None:
        budget = Budget("cuda:0", 16384, most=16384)
        budget.failed(40)
        changes = fill(budget, 10 * 2 * INITIAL_WAIT)
        assert [change.new_tokens for change in changes] == [
            *(20 << step for step in range(1, 10)),
            16384,
        ]
        assert fill(budget, 1000) == []

    def test_only_full_batches_say_that_more_may_fit(self) -> None:
        budget = Budget("cuda:0", 1000, most=1000)
        budget.failed(1000)
        assert [budget.finished(250) for _ in range(1000)] == [None] * 1000
        assert budget.tokens == 500

    def test_what_never_fits_is_tried_ever_less_often(self) -> None:
        budget, failures = Budget("cuda:0", 4000, most=4000), list[int]()
        for batch in range(100_000):
            if budget.tokens <= 400:
                budget.finished(budget.tokens)
            else:
                failures.append(batch)
                budget.failed(budget.tokens)
        gaps = [after - before for before, after in pairwise(failures[3:])]
        assert len(failures) < 15
        assert all(after > 1.9 * before for before, after in pairwise(gaps))

    def test_what_a_small_batch_says_is_not_for_the_next_engine(self) -> None:
        learned: list[int] = []
        budget = Budget("cuda:0", 16384, most=16384, learn=learned.append)
        for cost in (160, 80, 40):
            budget.failed(cost)
        assert (budget.tokens, learned) == (20, [])
        fill(budget, 10 * 8 * INITIAL_WAIT)
        budget.failed(16000)
        budget.failed(8000)
        assert learned == [8000, 4000]
        fill(budget, 3 * 32 * INITIAL_WAIT)
        assert budget.tokens == 16384
        budget.failed(4000)
        assert learned == [8000, 4000], "4000 fitted since"


def fill(budget: Budget, batches: int) -> list[BudgetChanged]:
    """Have so many full batches go well."""
    changes = [budget.finished(budget.tokens) for _ in range(batches)]
    return [change for change in changes if change is not None]
