"""The benchmark's arithmetic and its texts: figures are worth what these are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_tables, machine, memory, results, scaling, tables
from benchmarks.contestants import BASE, REFERENCE, Contestant, Padding
from benchmarks.corpus import Corpus
from benchmarks.flops import flops, linear_weights
from benchmarks.measure import order, queries, rounds, rows
from benchmarks.workloads import PASSAGES, WORKLOADS, choose
from langchain_gpu import select_device
from langchain_gpu.events import BatchDone, BudgetChanged

MINILM = {
    "model_type": "bert",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
}
BASE_SIZE = MINILM | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
LARGE = MINILM | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
QWEN3 = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


@pytest.mark.parametrize(
    ("config", "mflop"), [(MINILM, 22.4), (BASE_SIZE, 175), (LARGE, 617), (QWEN3, 895)]
)
def test_work_per_token_at_128(config: dict[str, Any], mflop: float) -> None:
    found = flops(config, np.array([128, 128])) / 256 / 1e6
    assert found == pytest.approx(mflop, rel=0.003)


def test_a_long_text_costs_more_per_token() -> None:
    short, long = (flops(MINILM, np.array([size])) / size for size in (10, 500))
    assert long - short == 4 * 490 * 384 * 6


def test_weights_are_those_of_the_model_itself() -> None:
    import torch
    from transformers import BertConfig, BertModel

    sizes = {key: value for key, value in MINILM.items() if key != "model_type"}
    config = BertConfig(vocab_size=9, **sizes)
    encoder = BertModel(config, add_pooling_layer=False).encoder
    linear = [each for each in encoder.modules() if isinstance(each, torch.nn.Linear)]
    assert linear_weights(MINILM) == sum(each.weight.numel() for each in linear)


def test_an_unknown_model_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="'t5'"):
        linear_weights(MINILM | {"model_type": "t5"})


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_lengths_of_a_workload(name: str) -> None:
    workload = WORKLOADS[name]
    lengths = workload.lengths(50_000, np.random.default_rng(0))
    assert lengths.mean() == pytest.approx(workload.mean, rel=0.04)
    assert lengths.min() >= 3
    assert lengths.max() <= workload.longest
    assert workload.count(256) * workload.mean == pytest.approx(256 * PASSAGES.mean, rel=0.05)


def test_mixed_lengths_pad_several_times_in_the_order_of_arrival() -> None:
    lengths = WORKLOADS["mixed"].lengths(32 * 400, np.random.default_rng(0)).reshape(-1, 32)
    assert 32 * lengths.max(axis=1).sum() / lengths.sum() > 2.5


def test_workloads_by_name() -> None:
    assert [each.name for each in choose("long,short")] == ["long", "short"]
    assert len(choose("all")) == 4
    with pytest.raises(ValueError, match="unknown workload 'huge'; known: all, short"):
        choose("huge")


def one_each(words: Sequence[str]) -> list[int]:
    return [1] * len(words)


def test_texts_are_as_long_as_asked_and_never_come_twice() -> None:
    paragraphs = [" ".join(f"w{row}.{column}" for column in range(40)) for row in range(110)]
    corpus = Corpus(one_each, paragraphs)
    texts = corpus.texts([12] * 2000)  # 20,000 words out of 4,400
    assert {len(text.split()) for text in texts} == {10}  # and two special tokens
    assert len(set(texts)) == 2000


def test_a_word_counts_its_tokens() -> None:
    def letters(words: Sequence[str]) -> list[int]:
        return [len(word) for word in words]

    corpus = Corpus(letters, ["aaa bb cccc dd e f"] * 2000)
    assert corpus.texts([7, 8]) == ["aaa bb", "cccc dd"]
    assert corpus.texts([1]) == ["e"], "one word is the least"


def test_a_corpus_without_words() -> None:
    with pytest.raises(ValueError, match="no words"):
        Corpus(one_each, ["  "]).texts([5])


def test_everybody_is_first_in_turn() -> None:
    assert [order(3, number)[0] for number in range(4)] == [0, 1, 2, 0]
    assert sorted(order(3, 5)) == [0, 1, 2]


def contestant(name: str, vectors: Any, seen: list[list[str]], padding: Any = None) -> Contestant:
    def documents(texts: list[str]) -> Any:
        seen.append(texts)
        if padding is not None:
            padding(BatchDone(device="cpu", items=1, tokens=10, padded_tokens=15, seconds=1))
        return vectors

    return Contestant(name, "float32", documents, lambda _: vectors[0], padding=padding)


def test_everybody_embeds_the_same_fresh_texts_and_is_compared() -> None:
    seen: list[list[str]] = []
    padding = Padding()
    names = [
        contestant(BASE, [[2.0, 0.0], [0.0, 1.0]], seen),
        contestant(REFERENCE, [[1.0, 0.0], [0.0, 5.0]], seen),
        contestant("GPUEmbeddings", [[3.0, 4.0], [0.0, 1.0]], seen, padding),
    ]
    numbers = iter(range(100))

    def fresh() -> list[str]:
        return [f"text {number}" for number in islice(numbers, 2)]

    def nobody(_: list[str]) -> Any:
        raise AssertionError("the reference takes part already")

    scores = rounds(names, nobody, fresh, count=2, device="cpu")
    assert (
        seen == [["text 0", "text 1"]] * 3 + [["text 2", "text 3"]] * 3 + [["text 4", "text 5"]] * 3
    )
    assert scores[BASE].cosine == pytest.approx(1)
    assert scores["GPUEmbeddings"].cosine == pytest.approx(0.6)
    assert scores["GPUEmbeddings"].padding == 1.5
    assert scores[BASE].padding is None
    assert all(len(score.seconds) == 2 for score in scores.values())


def test_ratios_are_medians_within_rounds() -> None:
    from benchmarks.measure import Score

    scores = {BASE: Score([4.0, 2.0, 8.0]), "ours": Score([2.0, 0.5, 2.0], 0.99, 1.25)}
    base, ours = rows(scores, texts=10, tokens=1000, flops=6e9, peaks={"ours": 12e9})
    assert (base["ratio"], ours["ratio"]) == (1.0, 4.0)
    assert base["peak_share"] is None
    assert ours["peak_share"] == 0.25
    assert (ours["documents_per_second"], ours["tokens_per_second"]) == (5.0, 500)
    assert (ours["padding"], ours["min_cosine"]) == (1.25, 0.99)


def test_the_next_contestant_starts_when_the_cores_are_idle_again() -> None:
    ended: list[float] = []
    began: list[float] = []

    def query(_: object) -> None:
        ended.append(perf_counter())

    def next_one(_: object) -> None:
        began.append(perf_counter())

    server = Contestant("server", "float32", query, query, settles=0.05)
    queries([server, Contestant("next", "float32", next_one, next_one)], ["a"], device="cpu")
    assert began[-1] - ended[-1] >= 0.05


def test_queries_have_percentiles() -> None:
    found = queries([contestant("x", [[1.0]], [])], ["a", "b"], device="cpu")["x"]
    assert list(found) == ["p50", "p95", "p99"]
    assert found["p50"] <= found["p99"]


def test_padding_counts_batches_only() -> None:
    padding = Padding()
    padding(BudgetChanged(device="cpu", old_tokens=2, new_tokens=1))
    assert padding.ratio is None


def test_a_process_of_a_large_one_is_not_large_itself() -> None:
    ballast = np.ones(40_000_000)  # 320 MB
    code = "from benchmarks.machine import peak_memory; print(peak_memory())"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert machine.peak_memory() > ballast.nbytes
    assert int(done.stdout) < ballast.nbytes


def test_a_task_that_fails_says_why() -> None:
    found = memory.run_apart("benchmarks.memory", {"setup": {"folder": "x", "gguf": None}})
    assert "name" in found["problem"]


def test_stream_texts_differ() -> None:
    texts = list(scaling.words(1200))
    assert len(set(texts)) == 1200
    assert texts[1042].endswith("one zero four two")


def test_the_peak_is_of_the_order_of_a_computer() -> None:
    assert 1e8 < machine.peak_rate("cpu", "float32", seconds=0.01) < 1e15


def record() -> dict[str, Any]:
    row: dict[str, Any] = {
        "documents_per_second": 1234.5,
        "tokens_per_second": 160485,
        "ratio": 1.0,
    }
    row |= {"padding": None, "peak_share": None, "min_cosine": 0.99996}
    names = ["HuggingFaceEmbeddings", "GPUEmbeddings"]
    ours = {**row, "name": names[1], "ratio": 6.5, "padding": 1.01, "peak_share": 0.654}
    return {
        "benchmark": "embed",
        "date": "2030-01-01",
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "rounds": 3,
        "device": {"kind": "cpu", "name": "A CPU", "cores": 2, "isa": ["avx2"]},
        "versions": {"torch": "9", "sentence-transformers": "8"},
        "import_cpu_seconds": {"base": 0.3, "more": 0.02},
        "contestants": [
            {
                "name": name,
                "query_ms": {"p50": 3.2, "p95": 4.0, "p99": 5.0},
                "peak_memory": {"bytes": 2**30},
            }
            for name in names
        ],
        "workloads": [
            {
                "name": kind,
                "texts": 256,
                "tokens_per_text": 130.2,
                "rows": [{**row, "name": names[0]}, ours],
            }
            for kind in ("short", "passages")
        ],
        "skipped": [{"name": "vLLM", "reason": "no server was given"}],
    }


def test_readme_shows_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "embed-cpu-a.json").write_text(json.dumps(record()))
    text = tables.readme_speed(tmp_path)
    assert "| | short | passages | least cosine to float32 | a query, p50 | peak memory |" in text
    assert "| GPUEmbeddings | 6.50 | 6.50 | 1.0000 | 3.2 ms | 1,024 MiB |" in text
    assert "| passages | 1,234 | 160,485 | 1.01 | 65% |" in text
    assert "vLLM (no server was given)" in text
    assert "not measured yet" in text


def test_a_run_with_fewer_instructions_stands_beside_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"benchmark": "embed", **record()}
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    whole = results.write(found | {"device": machine.describe(select_device("cpu"))}, tmp_path)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    less = results.write(found | {"device": machine.describe(select_device("cpu"))}, tmp_path)
    assert less.stem == f"{whole.stem}-avx512-core-bf16"
    assert "no more than AVX512_CORE_BF16" in tables.speed_page(tmp_path)
    assert "AVX512_CORE_BF16" not in tables.readme_speed(tmp_path)
    assert "| GPUEmbeddings | 6.50 |" in tables.readme_speed(tmp_path)


@pytest.mark.parametrize("wheel", ["faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"])
def test_a_record_names_the_faiss_that_is_here(monkeypatch: pytest.MonkeyPatch, wheel: str) -> None:
    def version(name: str) -> str:
        if name.startswith("faiss-") and name != wheel:
            raise PackageNotFoundError(name)
        return "1.15.1"

    monkeypatch.setattr(machine, "version", version)
    found = [name for name in machine.versions() if name.startswith("faiss-")]
    assert found == [wheel]


def test_readme_shows_a_gpu_from_its_file_only(tmp_path: Path) -> None:
    row = {"name": "GPUEmbeddings, to array", "texts": 9, "documents_per_second": 40_000.0}
    row |= {"tokens_per_second": 5_200_000, "ratio": 21.04, "peak_share": 0.147}
    row |= {"dtype": "bfloat16"}
    base = row | {"name": "HuggingFaceEmbeddings", "dtype": "float32"}
    case = {"model": "all-MiniLM-L6-v2", "tokens_per_text": 130.0, "rows": [base, row]}
    case |= {"peak_flops": {"bfloat16": 7.9e14, "float32": 5.2e13}}
    case |= {"left_out": [{"name": "a peer", "reason": "CUDA out of memory."}]}
    found = {
        "benchmark": "embed-gpu",
        "date": "2030-01-01",
        "device": {"kind": "cuda", "name": "A Card"},
        "versions": {"torch": "9", "sentence-transformers": "8"},
        "rounds": 3,
        "cases": [case],
        "parity": {"texts": 5, "min_cosine": {"GPUEmbeddings": 0.9991}},
        "left_out": [{"name": "bert-base, 50 tokens", "reason": "1.2 minutes were left"}],
    }
    (tmp_path / "embed-gpu-a-card.json").write_text(json.dumps(found))
    text = tables.readme_speed(tmp_path)
    assert "| GPUEmbeddings, to array | 40,000 | 5,200,000 | 21.0 | 15% |" in text
    assert "On A Card;" in text
    assert "GPUEmbeddings 0.99910" in text
    assert "790 TFLOP/s in bfloat16 (GPUEmbeddings, to array)" in text
    assert "52 TFLOP/s in float32 (HuggingFaceEmbeddings)" in text
    assert "a peer (CUDA out of memory.)" in text
    assert "bert-base, 50 tokens (1.2 minutes were left)" in text
    assert "not measured yet" not in text
    assert "21.04x" in gpu_tables.plain_case(case)


def test_terminal_tables_have_a_line_for_everybody() -> None:
    found = record()
    assert tables.plain(found["workloads"][0]).count("\n") == 4
    assert "6.50x" in tables.plain(found["workloads"][0])
    assert "1,024 MiB" in tables.plain_contestants(found)


def test_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from benchmarks import bench_gpu
    from langchain_gpu import Device

    cpu = Device(kind="cpu", name="A CPU", reason="no GPU was found")
    monkeypatch.setattr(bench_gpu, "select_device", lambda _: cpu)
    monkeypatch.setattr(sys, "argv", ["bench_gpu"])
    assert bench_gpu.main() == bench_gpu.NO_GPU
    assert "no GPU was found" in capsys.readouterr().out


def test_a_case_that_loaded_nothing_is_cleared_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu_cases
    from benchmarks.contestants import Setup

    @lru_cache
    def loaded(*_: object) -> Any:
        raise RuntimeError("the model does not fit")

    monkeypatch.setattr(gpu_cases, "loaded", loaded)
    gpu_cases.release(Setup(Path("model"), "cpu"))


def test_contestants_are_known_by_name() -> None:
    from benchmarks.bench_embed import wanted

    ours = [name for name in wanted("none") if name != BASE]
    assert len(ours) == 5
    assert all(name.startswith("GPUEmbeddings") for name in ours)
    assert wanted("llama.cpp") == [BASE, "llama.cpp", *ours]
    with pytest.raises(ValueError, match="unknown contestant 'x'"):
        wanted("x")
