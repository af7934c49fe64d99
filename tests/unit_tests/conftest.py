"""Fixtures that several files share."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure, and a failure should come back the same in the next run.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
os.environ["HF_HUB_OFFLINE"] = "1"  # unit tests ask nobody
os.environ["TOKENIZERS_PARALLELISM"] = "false"

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Converted models stay out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Path of a tiny model by name, built once."""
    from tests.unit_tests.tiny_models import build

    built: dict[str, str] = {}

    def path(name: str) -> str:
        if name not in built:
            folder: Path = tmp_path_factory.mktemp(name)
            built[name] = build(folder, name)
        return built[name]

    return path


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Path of a tiny reranker by name, built once."""
    from tests.unit_tests.tiny_rerankers import build

    built: dict[str, str] = {}

    def path(name: str) -> str:
        if name not in built:
            built[name] = build(tmp_path_factory.mktemp(name), name)
        return built[name]

    return path


@pytest.fixture
def press_ctrl_c() -> Iterator[Callable[[], None]]:
    """Interrupt the main thread as a terminal does, also where a script's background ignores it."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("Windows has no signals for threads")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    signal.signal(signal.SIGINT, before)
