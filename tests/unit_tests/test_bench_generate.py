"""The benchmark of writing text: its arithmetic, and a record that can be kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import bench_generate, results
from benchmarks.generate_peers import Answer, Streamer, Writer

SMALL = bench_generate.options(["--rounds", "2", "--concurrency", "1", "3", "--tokens", "4"])


def speaker(name: str, seconds: float) -> Streamer:
    def stream(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())
        for _ in range(count):
            time.sleep(seconds)
            answer.tokens.append(time.perf_counter())
        return answer

    return Streamer(name, stream)


def test_times_are_those_of_the_field() -> None:
    found = bench_generate.times([Answer(1.0, [1.5, 1.6, 1.8]), Answer(2.0, [2.5, 2.6, 2.8])])
    assert found["ttft"]["p50"] == pytest.approx(500)
    assert found["itl"]["p50"] == pytest.approx(150)
    assert found["tpot"]["p99"] == pytest.approx(150)
    assert found["e2e"]["p95"] == pytest.approx(800)


def test_a_run_is_measured_and_kept(tmp_path: Path) -> None:
    rows = bench_generate.streamed([speaker("base", 0.001), speaker("slow", 0.02)], SMALL)
    assert [(row["name"], row["concurrency"]) for row in rows] == [
        ("base", 1),
        ("slow", 1),
        ("base", 3),
        ("slow", 3),
    ]
    assert rows[0]["ratio"] == 1
    asked: list[int] = []

    def write(prompts: Sequence[str], count: int) -> int:
        asked.append(len(prompts))
        return len(prompts) * count

    batches = bench_generate.written([Writer("base", write)], SMALL)
    assert asked == [1, 3, 3]
    record = {
        "benchmark": "generate",
        "model": "m",
        "device": {"kind": "cpu", "name": "a cpu"},
        "llama_cpp": rows,
        "transformers": batches,
    }
    assert bench_generate.table(record).count("\n") == 6
    kept = results.write(record, tmp_path)
    assert json.loads(kept.read_text()) == record
    assert "generate-cpu-a-cpu" in kept.name


def test_questions_are_new_in_every_round() -> None:
    first, second = bench_generate.prompts(3, 1), bench_generate.prompts(3, 2)
    assert len({*first, *second}) == 6
