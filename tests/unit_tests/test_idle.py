"""Cores that nobody works on just now."""

from __future__ import annotations

import os

import pytest

from langchain_gpu.hardware import idle
from langchain_gpu.hardware.idle import free_cores


def test_what_others_work_on_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    # Idle and total ticks of eight CPUs over the same time: all, half, and none of it idle.
    for unused, free in ((80, 4), (24, 2), (3, 1), (0, 1)):
        looks = iter([(100, 1000), (100 + unused, 1080)])
        monkeypatch.setattr(idle, "_ticks", lambda looks=looks: next(looks))
        assert free_cores(4) == free


@pytest.mark.parametrize("look", [None, (5, 9)])
def test_where_the_system_does_not_say_all_cores_are_taken(
    look: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "_ticks", lambda: look)
    assert free_cores(4) == 4


def test_the_system_is_really_asked() -> None:
    assert 1 <= free_cores(4) <= 4
