"""The benchmark of starts: processes of their own, the cache as each is to find it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bench_start, start_tables
from benchmarks.bench_start import STARTERS, Starter, measure, start

# Says on which starts it found what an earlier process left in the cache.
LOOKS = """
import os
from pathlib import Path
mark = Path(os.environ["XDG_CACHE_HOME"]) / "mark"
Path(folder, {name!r}).open("a").write("found " if mark.exists() else "empty ")
mark.touch()
"""


def test_everybody_starts_once_more_than_there_are_rounds(tmp_path: Path) -> None:
    starters = [
        Starter("keeps", LOOKS.format(name="keeps")),
        Starter("new", LOOKS.format(name="new"), cached=False),
    ]
    rows = measure(starters, tmp_path, rounds=2)
    assert (tmp_path / "keeps").read_text() == "empty found found "
    assert (tmp_path / "new").read_text() == "empty empty empty "
    assert [row["name"] for row in rows] == ["keeps", "new"]
    assert rows[0]["ratio"] == 1.0
    assert all(row["seconds"] > 0 and row["peak_memory"]["bytes"] > 2**20 for row in rows)


def test_one_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken: ZeroDivisionError"):
        start(Starter("broken", "1 / 0"), tmp_path, tmp_path)


def test_each_kind_begins_with_its_base() -> None:
    names = [(each.name, each.reranks) for each in STARTERS]
    assert names[0] == ("HuggingFaceEmbeddings", False)
    assert next(name for name, reranks in names if reranks) == "CrossEncoder"
    assert bench_start.options([]).reranker is None


def test_the_section_has_a_row_each() -> None:
    row = {"seconds": 2.35, "ratio": 5.8, "peak_memory": {"bytes": 283 * 2**20}}
    record = {
        "device": {"cores": 2, "name": "A CPU"},
        "versions": {"torch": "2", "sentence-transformers": "6"},
        "date": "2026-01-01",
        "model": "a/minilm",
        "reranker": "cross",
        "rounds": 3,
        "embedders": [{"name": "GPUEmbeddings", **row}],
        "rerankers": [{"name": "GPURerank", **row}],
    }
    text = start_tables.section(record)
    assert "with `minilm` and `cross` on 2 cores of A CPU; torch 2" in text
    assert text.splitlines()[-2:] == [
        "| GPUEmbeddings | 2.4 | 5.80 | 283 MiB |",
        "| GPURerank | 2.4 | 5.80 | 283 MiB |",
    ]
