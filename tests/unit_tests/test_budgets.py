from __future__ import annotations

import pytest
import torch

from langchain_gpu.engine import budgets as module
from langchain_gpu.engine.budgets import Budgets, default_budget
from langchain_gpu.hardware.devices import Device
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
    assert Budgets("m").first(Card(per_token=10)) == default_budget(GPU)


@pytest.mark.usefixtures("free")
def test_bytes_per_token_set_the_budget() -> None:
    assert Budgets("m").first(Card(per_token=1000)) == 8000  # 10 MB x 0.8 / 1 kB


@pytest.mark.usefixtures("free")
def test_a_probe_that_does_not_fit_is_halved_and_remembered() -> None:
    card = Card(per_token=1, fits=5000)
    assert Budgets("m").first(card) == 4096
    assert card.probes == [16384, 8192, 4096]
    again = Card(per_token=1, fits=5000)
    assert Budgets("m").first(again) == 4096
    assert again.probes == []


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
    assert Budgets("m", fixed=50_000).first(card) == 50_000
    assert card.probes == []


def test_what_was_learned_counts_for_the_model_and_the_device() -> None:
    Budgets("m").learn(GPU, 100)
    assert Budgets("m").first(FakeEncoder()) == 100
    assert Budgets("m", fixed=5000).first(FakeEncoder()) == 100
    assert Budgets("m", fixed=50).first(FakeEncoder()) == 50
    assert Budgets("other").first(FakeEncoder()) == default_budget(GPU)
    assert Budgets("m").first(FakeEncoder(device=CPU)) == default_budget(CPU)


def test_a_device_that_cannot_tell_keeps_the_default() -> None:
    class Silent(FakeEncoder):
        def peak_bytes(self, tokens: int) -> int | None:
            return None

    assert Budgets("m").first(Silent()) == default_budget(GPU)


def test_a_server_plans_for_itself() -> None:
    far = Device(kind="remote", name="host", reason="given")
    assert default_budget(far) > 10 * default_budget(GPU)
