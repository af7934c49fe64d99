"""Fixtures that several files share."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest
from hypothesis import settings

from langchain_gpu.hardware.cpu import count_cores

# A busy machine is no failure, and a failure should come back the same in the next run.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
os.environ["HF_HUB_OFFLINE"] = "1"  # unit tests ask nobody
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Processes that run tests side by side would each take all cores, and wait for one another.
if _workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ["OMP_NUM_THREADS"] = str(max(1, count_cores() // int(_workers)))

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_MOST_WORKERS = 4  # of up to 2 GB each


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many processes `-n auto` means."""
    return min(_MOST_WORKERS, count_cores())


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


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority: to read them all takes longer than most tests of a client."""
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="module", autouse=True)
def imported_is_no_garbage() -> None:
    """Collect only what a file's tests make: the package collects often, and torch is large."""
    gc.collect()
    gc.freeze()


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
def one_faiss_thread() -> Iterator[None]:
    """Training waits for its slowest thread, which on a busy machine is very slow."""
    import faiss

    threads, blas = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = 10**6  # BLAS has threads of its own
    yield
    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = blas


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Threads that wait for one another take longer than tiny models on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def press_ctrl_c() -> Iterator[Callable[[], None]]:
    """Interrupt the main thread as a terminal does, also where a script's background ignores it."""
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("Windows has no signals for threads")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    signal.signal(signal.SIGINT, before)
