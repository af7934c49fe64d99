"""What is left of a run on a card when a part of it fails, or the run is cut short."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import (
    bench_gpu,
    gpu_answers,
    gpu_cases,
    gpu_checks,
    gpu_rerank,
    gpu_search,
    gpu_tables,
    machine,
    weights,
)
from benchmarks.contestants import BASE, HALF, Contestant, NotHereError, Setup
from benchmarks.corpus import Corpus
from benchmarks.gpu_cases import Runner, Size
from benchmarks.weights import BERT_BASE, MINILM
from benchmarks.workloads import Workload
from langchain_gpu import Device
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.conftest import MINILM as PACKAGE
from tests.unit_tests.tiny_chat import build_chat
from tests.unit_tests.tiny_rerankers import build as build_reranker

CARD = Device(kind="xpu", index=0, name="A Card", reason="the test says so", dtype="bfloat16")
SHORT = Workload("short", 12, 0.25, 512)
ANSWERS = {
    "model": "a decoder",
    "tokens": 2,
    "rows": [{"name": "one", "concurrency": 16, "tokens_per_second": 1234.5, "ratio": 4.2}],
}
PAIRS = {
    "model": "a reranker",
    "queries": 3,
    "documents": 50,
    "tokens_per_pair": 140.0,
    "throughput": [{"name": "ours", "pairs_per_second": 40321.0, "ratio": 4.4, "spearman": 0.9991}],
    "latency_ms": [{"name": "ours", "p50": 7.5, "p95": 8.0, "p99": 9.0}],
    "left_out": [],
}
SEARCHED = {
    "vectors": 1000,
    "dimension": 4,
    "k": 2,
    "batch": 8,
    "cpu_threads": 2,
    "bandwidth": 3e12,
    "rows": [
        {
            "name": "torch",
            "batch_ms": 2.0,
            "batch_ratio": 60.0,
            "single_us": 300.0,
            "single_ratio": 70.0,
            "bandwidth_share": 0.77,
            "same": 1.0,
        }
    ],
    "left_out": [],
}
PARTS = {gpu_rerank: PAIRS, gpu_search: SEARCHED, gpu_answers: ANSWERS}
PARAGRAPHS = [f"paragraph {number} speaks of nothing much at all" for number in range(400)]


class TestARun:
    @pytest.fixture
    def kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Where a run on a card keeps its result; the parts are the test's."""
        monkeypatch.setattr(bench_gpu, "select_device", lambda _: CARD)
        monkeypatch.setattr(gpu_checks, "freed", lambda *_: {"before": 0})
        monkeypatch.setattr(gpu_checks, "parity", lambda *_: {"texts": 1, "min_cosine": {}})
        for part, found in PARTS.items():
            monkeypatch.setattr(part, "measure", lambda *_, found=found: found)
        monkeypatch.setattr(bench_gpu, "prepare", self.prepare)
        monkeypatch.setattr(bench_gpu, "Corpus", lambda count: Corpus(count, PARAGRAPHS))
        monkeypatch.setattr("sys.argv", ["bench_gpu", "--quick", "--results", str(tmp_path)])
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return tmp_path / "embed-gpu-a-card.json"

    def prepare(self, name: str, scratch: Path, **options: Any) -> Path:
        """Make no model that nobody loads."""
        return weights.prepare(name, scratch, **options) if name == MINILM else scratch

    def test_that_is_cut_short_keeps_what_it_measured(
        self, monkeypatch: pytest.MonkeyPatch, kept: Path
    ) -> None:
        def case(model: str, _: Setup, workload: Workload, *__: Any) -> dict[str, Any]:
            if model == BERT_BASE:
                raise KeyboardInterrupt
            return {"model": model, "workload": workload.name, "tokens_per_text": 1, "rows": []}

        monkeypatch.setattr(bench_gpu, "case", case)
        with pytest.raises(KeyboardInterrupt):
            bench_gpu.main()
        found = json.loads(kept.read_text())
        assert found["freed"] == {"before": 0}
        assert [each["model"] for each in found["cases"]] == [MINILM]

    def test_a_model_that_cannot_be_made_stops_no_other_part(
        self, monkeypatch: pytest.MonkeyPatch, kept: Path
    ) -> None:
        def prepare(name: str, scratch: Path, **options: Any) -> Path:
            if name == BERT_BASE:
                raise OSError("no room left")
            return self.prepare(name, scratch, **options)

        monkeypatch.setattr(bench_gpu, "prepare", prepare)
        monkeypatch.setattr(
            bench_gpu,
            "case",
            lambda model, *_: {"model": model, "tokens_per_text": 1, "rows": []},
        )
        assert bench_gpu.main() == 0
        found = json.loads(kept.read_text())
        assert [each["model"] for each in found["cases"]] == [MINILM]
        assert [found[part] for part in ("rerank", "search", "answers")] == list(PARTS.values())
        shown = gpu_tables.section(found)
        assert "| ours | 40,321 | 4.40 | 0.9991 | 7.5 ms | 8.0 ms |" in shown
        assert "| torch | 2.0 ms | 60.0 | 300 µs | 70.0 | 77% |" in shown
        assert "| one | 16 | 1,234.5 | 4.20 |" in shown
        assert "a decoder with random weights, answers of 2 tokens" in shown
        reasons = [each["reason"] for each in found["left_out"]]
        assert reasons == ["OSError: no room left", "OSError: no room left", "no card to fill"]

    def test_of_one_part_keeps_the_others(
        self, monkeypatch: pytest.MonkeyPatch, kept: Path
    ) -> None:
        monkeypatch.setattr(
            bench_gpu,
            "case",
            lambda model, *_: {"model": model, "tokens_per_text": 1, "rows": []},
        )
        assert bench_gpu.main() == 0
        before = json.loads(kept.read_text())
        before["dates"] = dict.fromkeys(before["dates"], "2026-01-01")
        kept.write_text(json.dumps(before))
        monkeypatch.setattr(gpu_answers, "measure", lambda *_: ANSWERS | {"tokens": 99})
        monkeypatch.setattr("sys.argv", [*sys.argv, "--only", "answers"])
        assert bench_gpu.main() == 0
        found = json.loads(kept.read_text())
        assert found["answers"]["tokens"] == 99
        assert [part for part, date in found["dates"].items() if date != "2026-01-01"] == [
            "answers"
        ]
        same = ("cases", "freed", "parity", "rerank", "search", "left_out")
        assert {name: found[name] for name in same} == {name: before[name] for name in same}
        assert [each["reason"] for each in found["left_out"]] == ["no card to fill"]


def test_bert_takes_its_tokenizer_where_minilm_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = resolve(PACKAGE).path

    def nowhere(name: str) -> Any:
        raise FileNotFoundError(name)

    monkeypatch.setattr(weights, "resolve", nowhere)
    made = weights.prepare(BERT_BASE, tmp_path, tokenizer=folder)
    assert (made / "tokenizer.json").is_file()


def test_whole_answers_are_measured_against_one_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_answers, "WIDTH", 3)
    setup = Setup(Path(build_chat(tmp_path / "tiny")), "cpu")
    found = gpu_answers.measure(setup, 4, 2)
    assert [row["concurrency"] for row in found["rows"]] == [1, 3, 3, 3]
    assert found["rows"][0]["ratio"] == 1.0
    assert all(row["tokens_per_second"] > 0 for row in found["rows"])
    printed = gpu_tables.plain_answers(found)
    assert "tiny: answers of 4 tokens" in printed
    assert all(row["name"] in printed for row in found["rows"])


@pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning")
def test_pairs_are_scored_beside_a_cross_encoder(tmp_path: Path) -> None:
    setup = Setup(Path(build_reranker(tmp_path, "bert")), "cpu")
    found = gpu_rerank.measure(setup, 1, 2, 2, Corpus(len_of_words, PARAGRAPHS))
    assert [row["name"] for row in found["throughput"]] == [
        "CrossEncoder",
        "CrossEncoder, bfloat16",
        "GPURerank",
    ]
    assert found["throughput"][0]["ratio"] == 1.0
    assert found["throughput"][2]["spearman"] > 0.9
    assert [row["name"] for row in found["latency_ms"]] == [
        row["name"] for row in found["throughput"]
    ]
    assert "GPURerank" in gpu_tables.plain_pairs(found)


def test_search_is_measured_beside_faiss() -> None:
    found = gpu_search.measure(Setup(Path(), "cpu"), 300, 2, 2)
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["FAISS", "FAISSVectorStore", "FAISSVectorStore, ids", "torch"]
    assert rows["FAISS"]["batch_ratio"] == rows["FAISS"]["single_ratio"] == 1.0
    assert rows["torch"]["same"] == 1.0
    assert rows["torch"]["bandwidth_share"] > 0
    assert {each["name"] for each in found["left_out"]} == {"FAISS, float32", "FAISS, float16"}
    assert "FAISSVectorStore, ids" in gpu_tables.plain_search(found)


class TestACase:
    @pytest.fixture
    def setup(self) -> Setup:
        return Setup(resolve(PACKAGE).path, "cpu")

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_cases, "own", lambda _: [self.runner("ours")])
        monkeypatch.setattr(gpu_cases, "said", lambda *_: {})
        monkeypatch.setattr(machine, "peak_rate", lambda *_: 1e12)

    def runner(self, name: str, error: Exception | None = None, after: int = 0) -> Runner:
        calls: list[int] = []

        def run(texts: list[str], ids: list[list[int]]) -> Any:
            calls.append(len(texts))
            if error is not None and len(calls) > after:
                raise error
            return np.zeros((len(ids), 3))

        return Runner(name, "float32", run)

    def measured(self, setup: Setup) -> dict[str, Any]:
        size = Size(seconds=0.01, most=8, rounds=2, checked=8)
        return gpu_cases.case(MINILM, setup, SHORT, size, Corpus(len_of_words, PARAGRAPHS))

    def test_peers_that_are_not_here(self, monkeypatch: pytest.MonkeyPatch, setup: Setup) -> None:
        def load(_: Setup, name: str) -> Any:
            raise NotHereError(f"no module for {name}")

        monkeypatch.setattr(gpu_cases, "load", load)
        found = self.measured(setup)
        assert [row["name"] for row in found["rows"]] == ["ours"]
        assert found["rows"][0]["ratio"] is None
        assert [each["name"] for each in found["left_out"]] == [BASE, HALF]
        assert "ours" in gpu_tables.plain_case(found)

    @pytest.mark.parametrize("after", [0, 3])
    def test_a_peer_that_fails(
        self, monkeypatch: pytest.MonkeyPatch, setup: Setup, after: int
    ) -> None:
        error = RuntimeError("CUDA out of memory.\nmore")
        here = [self.runner(BASE), self.runner(HALF, error, after), self.runner("ours")]
        monkeypatch.setattr(gpu_cases, "runners", lambda _: (here, []))
        found = self.measured(setup)
        assert [row["name"] for row in found["rows"]] == [BASE, "ours"]
        assert found["rows"][0]["ratio"] == 1.0
        assert found["left_out"] == [{"name": HALF, "reason": "RuntimeError: CUDA out of memory."}]

    @pytest.mark.parametrize("part", ["said", "peak_rate", "own"])
    def test_what_fails_beside_the_rounds_loses_no_row(
        self, monkeypatch: pytest.MonkeyPatch, setup: Setup, part: str
    ) -> None:
        def fail(*_: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

        def load(_: Setup, name: str) -> Contestant:
            return Contestant(name, "float32", lambda texts: np.zeros((len(texts), 3)), len)

        monkeypatch.setattr(gpu_cases, "load", load)
        monkeypatch.setattr(machine if part == "peak_rate" else gpu_cases, part, fail)
        found = self.measured(setup)
        names = [row["name"] for row in found["rows"]]
        assert names == [BASE, HALF, *([] if part == "own" else ["ours"])]
        assert found["left_out"][0]["reason"] == "OutOfMemoryError: CUDA out of memory."
        assert (found["rows"][0]["peak_share"] is None) == (part == "peak_rate")
        assert BASE in gpu_tables.plain_case(found)


def len_of_words(words: Any) -> list[int]:
    return [1] * len(words)
