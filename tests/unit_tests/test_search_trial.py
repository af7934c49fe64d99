"""The search in a child process that proves a GPU of FAISS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_gpu.search import faiss_gpu


@pytest.fixture
def faiss_in_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `faiss` for child processes; this process keeps the real one."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    faiss_gpu.prove.cache_clear()
    yield tmp_path / "faiss.py"
    faiss_gpu.prove.cache_clear()


CHILD = """
import os, sys

class Index:
    def __init__(self, *_): pass
    def add(self, _): pass
    def search(self, vector, k):
        import numpy
        return None, numpy.zeros((1, 1), dtype="int64")

class Resources:
    def setTempMemory(self, _): pass

IndexFlatIP, StandardGpuResources = Index, Resources
get_num_gpus = lambda: 1

def index_cpu_to_gpu(resources, device, index):
    {body}
    return index
"""


def test_a_trial_that_works_proves_the_gpu(faiss_in_child: Path) -> None:
    faiss_in_child.write_text(CHILD.format(body="assert device == 0"))
    assert faiss_gpu.prove(0) is None


def test_a_trial_on_a_card_faiss_does_not_see_fails(faiss_in_child: Path) -> None:
    faiss_in_child.write_text(CHILD.format(body="pass"))
    assert "FAISS sees 1 GPUs" in str(faiss_gpu.prove(3))


def test_an_abort_inside_faiss_ends_the_child_only(faiss_in_child: Path) -> None:
    said = (
        "Faiss assertion 'err__ == cudaSuccess' failed in void faiss::gpu::runL2Norm(...) at "
        "/project/faiss/gpu/impl/L2Norm.cu:172; details: CUDA error 209 no kernel image is "
        "available for execution on the device"
    )
    faiss_in_child.write_text(CHILD.format(body=f"print({said!r}, file=sys.stderr); os.abort()"))
    assert "no kernel image is available" in str(faiss_gpu.prove(0))


def test_a_trial_that_hangs_is_ended(faiss_in_child: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_gpu, "PROOF_SECONDS", 0.5)
    faiss_in_child.write_text(CHILD.format(body="import time; time.sleep(60)"))
    assert "could not be run" in str(faiss_gpu.prove(0))


def test_the_real_cpu_build_fails_its_trial() -> None:
    faiss_gpu.prove.cache_clear()
    assert "trial search failed" in str(faiss_gpu.prove(0))
    faiss_gpu.prove.cache_clear()
