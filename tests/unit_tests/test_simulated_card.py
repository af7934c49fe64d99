"""The package on a card that is simulated, in a process of its own: see `simulated_card`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.unit_tests.simulated_card.guard import compile_guard, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing() or "a card can be simulated"),
    pytest.mark.timeout(600),
]
# transformers looks at the mask of a padded batch. A packed one waits for nothing.
_MASK = {"aten::_local_scalar_dense"}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    guard = compile_guard(tmp_path_factory.mktemp("guard"))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "tests.unit_tests.simulated_card.cases", str(guard)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # what is computed is tiny
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def found_in(cases: Any, name: str) -> Any:
    found = cases[name]
    assert "failed" not in found, found["failed"]
    return found


@pytest.mark.parametrize("name", ["bert", "roberta-cls", "modernbert", "qwen3-last-token"])
def test_packed_rows_are_recorded_and_wait_for_nothing(cases: Any, name: str) -> None:
    found = found_in(cases, f"embed {name} bfloat16")
    assert found["cosine"] >= 0.995
    assert found["waits"] == {}
    assert "packed (varlen_attn)" in found["said"]
    assert "1 shapes recorded" in found["said"]
    assert found["held"] > 0
    assert found["left"] == 0


@pytest.mark.parametrize(("name", "dtype"), [("mpnet", "bfloat16"), ("bert", "float32")])
def test_padded_rows(cases: Any, name: str, dtype: str) -> None:
    found = found_in(cases, f"embed {name} {dtype}")
    assert found["cosine"] >= (0.99999 if dtype == "float32" else 0.995)
    assert found["waits"].keys() <= _MASK
    assert "padded: " in found["said"]
    assert found["left"] == 0


def test_a_model_without_a_transformer(cases: Any) -> None:
    assert found_in(cases, "embed static float32")["cosine"] >= 0.99999


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_a_reranker(cases: Any, name: str) -> None:
    found = found_in(cases, f"rerank {name}")
    assert found["off"] < 1e-4 * found["spread"] + 1e-5


def test_memory_that_runs_out_while_embedding(cases: Any) -> None:
    found = found_in(cases, "out of memory")
    assert min(found["cosines"]) >= 0.995
    assert {"BudgetChanged", "FellBack"} <= set(found["events"])
    assert found["devices"][0] == "cuda:0"
    assert found["devices"][-1] == "cpu"
    assert found["left"] == 0


def test_memory_that_runs_out_on_one_card_of_two(cases: Any) -> None:
    found = found_in(cases, "two cards")
    assert min(found[name]["cosine"] for name in ("roomy", "little", "none")) >= 0.995
    assert found["roomy"]["devices"] == found["little"]["devices"] == ["cuda:0", "cuda:1"]
    assert found["roomy"]["smaller"] == found["roomy"]["fell"] == found["little"]["fell"] == []
    assert found["little"]["smaller"] == ["cuda:1"]
    assert found["none"]["fell"] == [["cuda:1", "cpu"]]
    assert {"cuda:0", "cpu"} == set(found["none"]["devices"])
    assert found["left"] == [0, 0]


def test_the_benchmark_meets_the_end_of_memory(cases: Any) -> None:
    found = found_in(cases, "benchmark")
    assert found["finished"]
    assert found["min_cosine"] >= 0.995
    assert found["budget_changes"][0]["old_tokens"] > 100_000  # not what a plan made smaller
    assert found["fallbacks"] == []
    assert found["held"] == 0


def test_the_benchmark_gives_memory_back_each_time(cases: Any) -> None:
    found = found_in(cases, "benchmark")["freed"]
    assert found["loaded"] == found["loaded_again"] > found["before"]
    assert found["after_close"] == found["after_close_again"] == 0


def test_a_search_on_a_card_finds_the_same(cases: Any) -> None:
    found = found_in(cases, "search")
    assert found["same"]
    assert found["held"] > 0
    assert found["after"] == "one more"
    assert any("search runs on cpu, not cuda:0" in each for each in found["told"])


def test_a_chat_on_a_card_moves_to_the_cpu_when_memory_ends(cases: Any) -> None:
    found = found_in(cases, "chat")
    assert found["whole"]
    assert found["parted"]
    assert found["ruled"]
    assert (found["device"], found["moved"]) == ("cuda:0", "cpu")
    assert found["after"]
    assert found["left"] == 0


def test_the_layers_of_a_chat_model_on_two_devices(cases: Any) -> None:
    found = found_in(cases, "layers")
    half, both, little = found["cpu"], found["cuda:1"], found["little room"]
    assert half["same"]
    assert both["same"]
    assert little["same"]
    assert half["held"][0] > 0 == half["held"][1]
    assert min(both["held"]) > 0
    assert 0 < little["held"][0] < half["held"][0]
    assert "runs on cpu, not cuda:0: half of the layers each" in half["told"][0]
    assert both["told"] == []
    assert re.search("[1-7] of 8 layers stay on the CPU", little["told"][0])
    assert found["left"] == [0, 0]
