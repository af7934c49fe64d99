"""Generators that share one transformers model, while another model loads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu.generators import hf_shared
from langchain_gpu.generators.hf_model import HFModel
from langchain_gpu.generators.registry import Options
from langchain_gpu.generators.transformers import TransformersGenerator
from tests.unit_tests.tiny_chat import build_chat

OPTIONS = Options(device="cpu", dtype="float32")
OTHERS = Options(device="cpu", dtype="bfloat16")  # of another model, as the key sees it


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_chat(tmp_path_factory.mktemp("chat")))


class SlowLoad:
    """Makes every further model wait before it loads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        slow = self

        class SlowModel(HFModel):
            def __init__(self, *args: Any) -> None:
                slow.begun.release()
                assert slow.go_on.wait(60)
                super().__init__(*args)

        monkeypatch.setattr(hf_shared, "HFModel", SlowModel)


def is_kept(model: HFModel) -> bool:
    return model in [shared.model for shared in hf_shared._models.values()]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def test_a_loaded_model_is_shared_and_closed_while_another_loads(
    path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = TransformersGenerator(path, OPTIONS)
    model = loaded._open
    slow = SlowLoad(monkeypatch)
    coming = pool.submit(TransformersGenerator, path, OTHERS)
    try:
        assert slow.begun.acquire(timeout=20)
        again = pool.submit(TransformersGenerator, path, OPTIONS).result(timeout=20)
        assert again._open is model
        for generator in (again, loaded):
            pool.submit(generator.close).result(timeout=20)
    finally:
        slow.go_on.set()
    coming.result().close()
    assert not is_kept(model)


def test_two_that_ask_for_the_same_model_at_once_load_it_once(
    path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowLoad(monkeypatch)
    both = [pool.submit(TransformersGenerator, path, OPTIONS) for _ in range(2)]
    assert slow.begun.acquire(timeout=20)
    slow.go_on.set()
    first, second = (each.result(timeout=60) for each in both)
    model = first._open
    assert second._open is model
    assert not slow.begun.acquire(blocking=False), "the model was loaded twice"
    for generator in (first, second):
        generator.close()
    assert not is_kept(model)
