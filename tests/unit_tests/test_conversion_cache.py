"""Converted models on disk: whole, or made again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.embeddings import GPUEmbeddings
from langchain_gpu.engine.runtimes.conversion_cache import make_once

Tiny = Callable[[str], str]


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = [Path.unlink, _empty, _cut]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", ["openvino float32", "openvino int8", "onnx float32", "onnx int8"])
def test_a_damaged_model_is_made_again(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    way: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend, dtype = way.split()
    given: dict[str, Any] = {"model": tiny("bert"), "backend": backend, "dtype": dtype}
    with GPUEmbeddings(**given) as embeddings:
        vector = embeddings.embed_query("the gpu")
    for file in [each for each in (tmp_path / "langchain-gpu").rglob("*") if each.is_file()]:
        damage(file)
    with GPUEmbeddings(**given) as embeddings:
        assert np.allclose(embeddings.embed_query("the gpu"), vector, atol=1e-6)


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_that_lost_something_is_noticed(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "cache" / "model"

    def make(place: Path) -> None:
        (place / "model.xml").write_text("graph")
        (place / "model.bin").write_text("weights")

    make_once(folder, make)
    for name in sorted(each.name for each in folder.iterdir()):
        damage(folder / name)
        assert make_once(folder, make) == (folder, None)
        assert (folder / "model.xml").read_text() == "graph"
        assert (folder / "model.bin").read_text() == "weights"
        assert [each.name for each in folder.parent.iterdir()] == ["model"]
    make_once(folder, lambda _: pytest.fail("it is whole"))


@pytest.mark.parametrize("damaged", [False, True])
def test_two_at_once_leave_one_whole_result(tmp_path: Path, *, damaged: bool) -> None:
    """Both have looked before either has finished, as two processes may."""
    folder, both = tmp_path / "cache" / "model", threading.Barrier(2)
    if damaged:
        folder.mkdir(parents=True)

    def make(place: Path) -> None:
        both.wait(timeout=30)
        (place / "model.xml").write_text("whole")

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: make_once(folder, make), range(2)))
    assert results == [(folder, None)] * 2
    assert (folder / "model.xml").read_text() == "whole"
    assert sorted(each.name for each in folder.iterdir()) == ["files.json", "model.xml"]
    assert [each.name for each in folder.parent.iterdir()] == ["model"]


def test_a_model_that_nobody_used_for_long_goes_when_another_is_made(tmp_path: Path) -> None:
    """Each new version of torch or OpenVINO makes another one of the same model."""
    home = tmp_path / "cache"

    def make(place: Path) -> None:
        (place / "model.bin").write_text("weights")

    for name in ("old", "used", "fresh"):
        make_once(home / name, make)
    (home / "of others").mkdir()
    long_ago = time.time() - 100 * 24 * 3600
    for each in [home / "of others", *home.glob("old/*"), *home.glob("used/*")]:
        os.utime(each, (long_ago, long_ago))
    make_once(home / "used", lambda _: pytest.fail("it is whole"))
    assert (home / "old").is_dir(), "nothing is looked for where a model starts from the cache"
    make_once(home / "new", make)
    assert sorted(each.name for each in home.iterdir()) == ["fresh", "new", "of others", "used"]


def test_what_a_killed_process_left_behind_goes_after_a_day(tmp_path: Path) -> None:
    """Never read, and never removed while another process may be writing it."""
    home = tmp_path / "cache"
    program = """
import os, signal, sys
from pathlib import Path
from langchain_gpu.engine.runtimes.conversion_cache import make_once

def make(place):
    (place / "model.bin").write_text("half of the weights")
    os.kill(os.getpid(), signal.SIGKILL)

make_once(Path(sys.argv[1]), make)
"""
    command = [sys.executable, "-c", program, str(home / "model")]
    killed = subprocess.run(command, check=False, timeout=60)  # noqa: S603 - our own program
    assert killed.returncode != 0
    (left,) = home.iterdir()

    def make(place: Path) -> None:
        (place / "model.bin").write_text("weights")

    assert make_once(home / "model", make) == (home / "model", None)
    assert (home / "model" / "model.bin").read_text() == "weights"
    assert left.is_dir()
    yesterday = time.time() - 25 * 3600
    for each in (home / "model", left, *left.rglob("*")):
        os.utime(each, (yesterday, yesterday))
    make_once(home / "other", make)
    assert sorted(each.name for each in home.iterdir()) == ["model", "other"]
