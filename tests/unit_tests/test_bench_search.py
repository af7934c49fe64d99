"""The search benchmark: what it makes, runs and prints, on a small scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_search, results, search_tables
from benchmarks.search_peers import IDS, NAMES, OURS, RAW, build, make_texts, make_vectors

SIZES = ["--sizes", "200", "--dimension", "16", "--approximate", "600"]
SMALL = [*SIZES, "--rounds", "1", "--batch", "8", "--singles", "4"]
pytestmark = pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset")


def test_vectors_are_units_and_the_same_again() -> None:
    vectors = make_vectors(300, 16, 2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors, make_vectors(300, 16, 2))
    assert not np.array_equal(vectors, make_vectors(300, 16, 3))


def test_all_find_the_same() -> None:
    vectors, texts = make_vectors(200, 16, 2), make_texts(200)
    queries = make_vectors(5, 16, 3)
    raw, community, ours = (build(name, vectors, texts) for name in NAMES)
    expected = raw.search(queries, 3)[1].tolist()
    for peer in (community, ours):
        for found in (
            peer.search(queries, 3),
            [peer.search(query[None], 3)[0] for query in queries],
        ):
            numbers = [
                [int(document.page_content.split()[-1]) for document, _ in hits] for hits in found
            ]
            assert numbers == expected


def test_a_run_is_printed_and_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"bytes": 1, "needed": 1, "ratio": 1.1, "peak_ratio": 1.5}
    monkeypatch.setattr(bench_search, "run_apart", lambda module, task: taken)
    bench_search.main(SMALL)
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["name"] for row in record["exact"][0]["rows"]] == [*NAMES, IDS]
    assert set(record["exact"][0]["load_seconds"]) >= {RAW, OURS, f"{OURS}, mmap"}
    for each in record["approximate"]:
        assert [row["name"] for row in each["rows"]] == [RAW, OURS, IDS]
        assert all(row["recall"] >= bench_search.RECALL for row in each["rows"])
    versions = record["versions"]
    gpu = versions | {"faiss-gpu-cuvs": versions["faiss-cpu"]}
    del gpu["faiss-cpu"]
    assert "faiss-gpu-cuvs 1." in search_tables.section(record | {"versions": gpu})
    text = search_tables.section(record)
    for name in (*NAMES, IDS):
        assert f"| 200 | {name} |" in text
    assert "not measured yet" in text
    path = results.write(record, tmp_path)
    assert path.name.startswith("search-cpu-")
    assert json.loads(path.read_text()) == record
