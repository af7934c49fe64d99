from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_gpu.engine.keeper import Keeper


class Thing:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()


def is_loaded(keeper: Keeper[Thing]) -> bool:
    return keeper.loaded is not None


def test_loaded_once_for_all_threads() -> None:
    keeper: Keeper[Thing] = Keeper()
    made: list[Thing] = []
    together = threading.Barrier(8)

    def load() -> Thing:
        made.append(Thing())
        return made[-1]

    def use(_: int) -> Thing:
        together.wait(20)
        with keeper.use(load) as thing:
            return thing

    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(use, range(8))))) == 1
    assert len(made) == 1


def test_closing_frees_and_the_next_use_loads_anew() -> None:
    keeper: Keeper[Thing] = Keeper()
    with keeper.use(Thing) as first:
        pass
    assert is_loaded(keeper)
    keeper.close()
    keeper.close()
    assert first.closed.is_set()
    assert not is_loaded(keeper)
    with keeper.use(Thing) as second:
        assert second is not first


def test_closing_waits_for_those_who_use_it_without_blocking() -> None:
    keeper: Keeper[Thing] = Keeper()
    with keeper.use(Thing) as first:
        with keeper.use(Thing) as same:
            assert same is first
            keeper.close()
            with keeper.use(Thing) as other:
                assert other is not first
        assert not first.closed.is_set()
    assert first.closed.is_set()
    assert not other.closed.is_set()


def test_a_failed_load_leaves_nothing_behind() -> None:
    keeper: Keeper[Thing] = Keeper()

    def fail() -> Thing:
        raise OSError("no file")

    with pytest.raises(OSError, match="no file"), keeper.use(fail):
        pass
    with keeper.use(Thing) as thing:
        assert keeper.loaded is thing


def test_idle_it_is_freed_and_loaded_again() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=0.05)
    with keeper.use(Thing) as first:
        assert not first.closed.wait(0.2), "freed while in use"
    assert first.closed.wait(20)
    assert keeper.loaded is None
    with keeper.use(Thing) as second:
        assert second is not first


def test_without_a_limit_no_timer_runs() -> None:
    keeper: Keeper[Thing] = Keeper()
    with keeper.use(Thing):
        pass
    assert keeper._timer is None


def test_a_timer_does_not_keep_it_alive() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=600)
    with keeper.use(Thing):
        pass
    timer, alive = keeper._timer, weakref.ref(keeper)
    del keeper
    gc.collect()
    assert alive() is None
    assert timer is not None
    timer.cancel()


def test_however_short_the_limit_it_is_not_freed_in_use() -> None:
    keeper: Keeper[Thing] = Keeper(idle_timeout=0)
    with keeper.use(Thing) as first:
        with keeper.use(Thing):
            pass
        assert not first.closed.wait(0.2), "freed while in use"
    assert first.closed.wait(20)
