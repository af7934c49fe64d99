"""The benchmark of writing text: its arithmetic, and a record that can be kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import (
    bench_generate,
    generate_parts,
    generate_rounds,
    generate_tables,
    results,
    tables,
)
from benchmarks.generate_peers import Answer, Streamer, Writer

SMALL = bench_generate.options(
    ["--rounds", "2", "--answers", "6", "--concurrency", "1", "3", "--tokens", "4"]
)


def speaker(name: str, seconds: float) -> Streamer:
    def stream(prompt: str, count: int) -> Answer:
        answer = Answer(time.perf_counter())
        for _ in range(count):
            time.sleep(seconds)
            answer.tokens.append(time.perf_counter())
        return answer

    return Streamer(name, stream)


def test_times_are_those_of_the_field() -> None:
    found = generate_rounds.times([Answer(1.0, [1.5, 1.6, 1.8]), Answer(2.0, [2.5, 2.6, 2.8])])
    assert found["ttft"]["p50"] == pytest.approx(500)
    assert found["itl"]["p50"] == pytest.approx(150)
    assert found["tpot"]["p99"] == pytest.approx(150)
    assert found["e2e"]["p95"] == pytest.approx(800)


def test_a_run_is_measured_and_kept(tmp_path: Path) -> None:
    here = [speaker("base", 0.001), speaker("slow", 0.02)]
    rows = list(generate_rounds.streamed(here, SMALL, [1, 3]))
    assert [(row["name"], row["concurrency"]) for row in rows] == [
        ("base", 1),
        ("slow", 1),
        ("base", 3),
        ("slow", 3),
    ]
    assert [row["rounds"] for row in rows] == [6, 6, 2, 2]
    assert rows[0]["ratio"] == 1
    asked: list[tuple[int, int]] = []

    def write(prompts: Sequence[str], count: int) -> int:
        asked.append((len(prompts), count))
        return len(prompts) * count

    batches = generate_rounds.written([Writer("base", write)], SMALL)
    assert asked == [(3, 2), (3, 4), (3, 4)]
    device = {"kind": "cpu", "name": "a cpu"}
    record = {"benchmark": "generate", "model": "m", "device": device, "llama_cpp": rows}
    record["transformers"] = batches
    kept = results.write(record, tmp_path)
    assert json.loads(kept.read_text()) == record
    assert "generate-cpu-a-cpu" in kept.name


def test_tokens_are_those_the_engine_counts() -> None:
    merged = Answer(1.0, [1.5, 1.9], written=5)
    assert merged.count == 5
    assert generate_rounds.times([merged])["tpot"]["p50"] == pytest.approx(100)
    assert Answer(1.0, [1.5, 1.6]).count == 2
    assert Answer(1.0, written=3).count == 0


def test_nobody_finds_the_question_of_another_cached() -> None:
    asked: dict[str, list[str]] = {"one": [], "other": []}

    def recorder(name: str) -> Streamer:
        def stream(prompt: str, count: int) -> Answer:
            asked[name].append(prompt)
            return Answer(1.0, [2.0] * count)

        return Streamer(name, stream)

    list(generate_rounds.streamed([recorder("one"), recorder("other")], SMALL, [1, 3]))
    everything = asked["one"] + asked["other"]
    assert len(everything) == len(set(everything)) == 2 * (7 * 1 + 3 * 3)


def test_a_level_that_took_too_long_begins_no_further_round() -> None:
    late = bench_generate.options(
        ["--rounds", "9", "--answers", "9", "--tokens", "4", "--level-seconds", "0"]
    )
    rows = list(generate_rounds.streamed([speaker("base", 0.001)], late, [1, 3]))
    assert [row["rounds"] for row in rows] == [1, 1]


def shares(date: str, names: Sequence[str], **more: object) -> dict[str, object]:
    here = [{"name": name, "model": "m", "rows": []} for name in names]
    common = {"versions": {"ollama": "1"}, "tokens": 32, "threads": 1, "skipped": []}
    return {**common, "date": date, "servers": here, **more}


def test_what_was_not_measured_again_stays_with_its_date() -> None:
    before = shares("2030-01-01", ["Ollama 1", "vLLM 1"], llama_cpp=[1], clients={"rows": [2]})
    after = shares("2030-02-02", ["vLLM 2"], dates={"vLLM": "2030-02-02"})
    found = generate_parts.completed(after, before)
    assert [each["name"] for each in found["servers"]] == ["Ollama 1", "vLLM 2"]
    assert (found["llama_cpp"], found["clients"]) == ([1], {"rows": [2]})
    assert found["date"] == found["dates"]["vLLM"] == "2030-02-02"
    assert found["dates"]["Ollama"] == found["dates"]["llama.cpp"] == "2030-01-01"
    again = shares("2030-03-03", [], dates={"clients": "2030-03-03"}, clients={"rows": [3]})
    third = generate_parts.completed(again, found)
    assert third["clients"] == {"rows": [3]}
    assert third["dates"]["vLLM"] == "2030-02-02"
    assert len(third["servers"]) == 2


def test_a_server_that_failed_this_time_is_named_once() -> None:
    gone = [{"name": "vLLM after 4 at once", "reason": "old"}]
    before = shares("2030-01-01", [], skipped=gone)
    failed = [{"name": "vLLM", "reason": "new"}]
    after = shares("2030-02-02", [], dates={"vLLM": "2030-02-02"}, skipped=failed)
    assert generate_parts.completed(after, before)["skipped"] == failed


def test_parts_measured_with_other_versions_are_not_put_together() -> None:
    before = shares("2030-01-01", ["Ollama 1"])
    after = shares("2030-02-02", [], dates={"vLLM": "2030-02-02"}, versions={"ollama": "2"})
    with pytest.raises(ValueError, match="versions were .* measure all parts"):
        generate_parts.completed(after, before)


def test_an_empty_answer_is_no_fast_one() -> None:
    silent = Streamer("silent", lambda _, __: Answer(1.0))
    with pytest.raises(RuntimeError, match="silent gave an empty answer"):
        list(generate_rounds.streamed([silent], SMALL, [1]))


def test_questions_are_new_in_every_round() -> None:
    first, second = generate_rounds.prompts(3, 1), generate_rounds.prompts(3, 2)
    assert len({*first, *second}) == 6


def test_questions_of_one_round_begin_no_more_alike_than_those_of_two() -> None:
    def begins(*marks: int) -> str:
        return generate_rounds.prompts(1, 16, *marks)[0][: len("Round 1")]

    turns = range(1, 41)
    assert sum(begins(turn, 0) == begins(turn, 1) for turn in turns) < len(turns) / 2
    assert sum(begins(turn, 1) == begins(turn + 1, 0) for turn in turns) < len(turns) / 2


def test_every_level_is_warmed_up_by_everybody_with_short_answers() -> None:
    counts: list[int] = []

    def stream(prompt: str, count: int) -> Answer:
        counts.append(count)
        return Answer(1.0, [2.0] * count)

    two = [Streamer("one", stream), Streamer("other", stream)]
    list(generate_rounds.streamed(two, SMALL, [1, 3]))
    at_once = [2] * 2 + [4] * 12, [2] * 6 + [4] * 12
    assert counts == at_once[0] + at_once[1]


def test_readme_shows_what_was_measured(tmp_path: Path) -> None:
    ms = {name: {"p50": 12.34} for name in ("ttft", "itl", "tpot", "e2e")}
    row = {"concurrency": 16, "tokens_per_second": 1234.5, "ratio": 0.987, "ms": ms}
    row |= {"cpu_us_per_token": 151.4, "tokens": 32.0, "rounds": 5}
    short = {**row, "name": "short answers", "ms": {"ttft": {"p50": 1.0}}}
    record = {
        "benchmark": "generate",
        "date": "2030-01-01",
        "model": "tiny",
        "device": {"kind": "cpu", "name": "A CPU", "cores": 2},
        "versions": {"xllamacpp": "9", "transformers": "8"},
        "dates": {"llama.cpp": "2030-01-01", "Ollama": "2029-12-30"},
        "tokens": 32,
        "threads": 1,
        "llama_cpp": [{**row, "name": "xllamacpp"}, short],
        "own_cost": {
            "threads": 1,
            "requests": 0,
            "rows": [{"name": "ChatGPU.stream", "first_us": 1880, "chunk_us": 90.6}],
        },
        "clients": {
            "rounds": 9,
            "first_ms": 200.0,
            "pace_ms": 20.0,
            "rows": [
                {
                    "name": "openai",
                    "concurrency": 64,
                    "late_ms": {"p50": 35.81, "p95": 80.02},
                    "cpu_us_per_token": 291.4,
                }
            ],
        },
        "servers": [
            {"name": "Ollama 1.2", "model": "m", "rows": [{**row, "name": "ChatGPU(ollama)"}]}
        ],
        "transformers": [{**row, "name": "GPULLM"}],
        "skipped": [{"name": "vLLM", "reason": "no vllm/bin/python in .servers"}],
    }
    (tmp_path / "generate-cpu-a-cpu-tiny.json").write_text(json.dumps(record))
    text = tables.speed_page(tmp_path)
    assert generate_tables.section(record) in text
    assert "`tiny` on 2 cores of A CPU; xllamacpp 9" in text
    assert ", 2030-01-01 (Ollama 2029-12-30). Rounds of fresh" in text
    times = "12.3 ms | 12.3 ms | 12.3 ms | 12.3 ms"
    assert f"| xllamacpp | 16 | 5 | 1,234.5 | 0.99 | {times} |" in text
    assert "| short answers | 16 | 5 | 1,234.5 | 0.99 | 1.0 ms | – | – | – |" in text  # noqa: RUF001
    assert "Ollama 1.2, `m`:\n\n| streams | at once |" in text
    assert f"| ChatGPU(ollama) | 16 | 5 | 1,234.5 | 0.99 | {times} | 151 µs |" in text
    assert "sends a first piece 200 ms after it was asked and another every 20 ms" in text
    assert "| openai | 64 | 35.8 ms | 80.0 ms | 291 µs |" in text
    assert "| GPULLM | 16 | 1,234.5 | 0.99 |" in text
    assert "ChatGPU.stream 1,880 µs until the first piece and 91 µs for each further one." in text
    assert "1 thread and sends 0 requests" in text
    assert "Left out of this run: vLLM (no vllm/bin/python in .servers)." in text
