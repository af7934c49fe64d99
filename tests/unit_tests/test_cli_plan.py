"""`langchain-gpu plan` as people and programs use it, on machines here and elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu.cli import main
from langchain_gpu.hardware.devices import list_devices
from tests.unit_tests import scripted_hub
from tests.unit_tests.machines import MACHINES
from tests.unit_tests.planned_models import (
    GIB,
    LLAMA_31_8B_Q4_K_M,
    MIB,
    RERANKER,
    write_config,
    write_llama_31_8b,
)
from tests.unit_tests.test_hf_config import BGE_M3, LLAMA_3_8B
from tests.unit_tests.text_snapshots import FOLDER, compare, trimmed
from tests.unit_tests.tiny_gguf import decoder, gguf

LLAMA = "Llama-3.1-8B-Instruct-Q4_K_M.gguf"
EVERYTHING = [LLAMA, "bge-m3", "rerank:bge-reranker-v2-m3", "--index", "1_000_000x1024"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models to plan for."""
    folder = tmp_path_factory.mktemp("models")
    write_llama_31_8b(folder / LLAMA)
    write_config(folder / "bge-m3", BGE_M3)
    write_config(folder / "bge-reranker-v2-m3", RERANKER)
    write_config(folder / "llama-3-8b", LLAMA_3_8B)
    return folder


@pytest.fixture(autouse=True)
def here(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command; give its status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["plan", *arguments])
        code = caught.value.code
        out, err = capsys.readouterr()
        return code if isinstance(code, int) else int(code is not None), out, err

    return run


def found(call: Call, *arguments: str, code: int = 0) -> dict[str, Any]:
    status, out, err = call(*arguments, "--json")
    assert (status, err) == (code, "")
    value: dict[str, Any] = json.loads(out)
    return value


@pytest.mark.parametrize("name", MACHINES)
def test_a_whole_rag_on_a_simulated_machine(
    call: Call, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("langchain_gpu.hardware.devices")
    monkeypatch.setattr(module, "list_devices", lambda: list_devices(MACHINES[name]))
    code, out, err = call(*EVERYTHING)
    assert err == ""
    assert code == (1 if name == "no-gpu" else 0)
    compare(f"plan-{name}.txt", trimmed(out))


def test_no_snapshot_is_left_over() -> None:
    assert {file.name for file in FOLDER.glob("plan-*.txt")} == {
        f"plan-{name}.txt" for name in MACHINES
    }


def test_json_has_every_byte(call: Call) -> None:
    got = found(call, *EVERYTHING, "--device-memory", "24GiB", "--ram", "64GiB")
    assert got["fits"] is True
    assert [each["name"] for each in got["components"]] == [
        LLAMA, "bge-reranker-v2-m3", "bge-m3", "index",
    ]  # fmt: skip
    chat = got["components"][0]
    assert chat["decision"] == "whole"
    assert chat["weights_bytes"] == pytest.approx(LLAMA_31_8B_Q4_K_M, rel=0.003)
    assert chat["kv_cache_bytes"] == GIB
    assert chat["overhead_bytes"] == 512 * MIB
    for each in got["components"]:
        kinds = ("weights", "kv_cache", "activations", "overhead", "index")
        assert each["total_bytes"] == sum(each[f"{kind}_bytes"] for kind in kinds)
        terms = [term for share in each["shares"] for term in share["terms"]]
        assert each["total_bytes"] == sum(term["bytes"] for term in terms)
        assert all(term["formula"] for term in terms)
    assert sum(pool["used"] for pool in got["devices"]) == sum(
        each["total_bytes"] for each in got["components"]
    )
    assert [pool["device"] for pool in got["devices"]] == ["cuda:0", "cpu"]
    assert got["devices"][0]["free"] == 24 * GIB


def test_status_1_says_that_something_has_no_place(call: Call) -> None:
    got = found(call, LLAMA, "--device-memory", "1GiB", "--ram", "2GiB", code=1)
    assert got["fits"] is False
    assert got["components"][0]["decision"] == "refused"
    code, out, _ = call(LLAMA, "--device-memory", "1GiB", "--ram", "2GiB")
    assert code == 1
    assert "refused" in out
    assert "missing" in " ".join(out.split())


def test_no_gpu_at_all(call: Call) -> None:
    got = found(call, LLAMA, "--device-memory", "0", "--ram", "64GiB")
    assert [pool["device"] for pool in got["devices"]] == ["cpu"]
    assert got["components"][0]["decision"] == "cpu"


def test_options_reach_the_plan(call: Call) -> None:
    base = [LLAMA, "--device-memory", "80GiB"]
    chat = found(call, *base, "--context", "4096", "--parallel", "4")["components"][0]
    assert (chat["context"], chat["kv_cache_bytes"]) == (4096, 2 * GIB)
    chat = found(call, *base, "--cache-dtype", "q8_0")["components"][0]
    assert chat["kv_cache_bytes"] == GIB * 8.5 / 16
    for reserve, count in (("10GiB", 10 * GIB), ("0", 0)):
        assert found(call, *base, "--reserve", reserve)["devices"][0]["reserve"] == count
    four, two = (
        found(call, "llama-3-8b", "--dtype", dtype, *base[1:])["components"][0]["weights_bytes"]
        for dtype in ("float32", "bfloat16")
    )
    assert four == 2 * two


def test_a_dtype_is_for_the_models_beside_a_gguf_file(call: Call) -> None:
    arguments = [LLAMA, "bge-m3", "--device-memory", "24GiB"]
    plain = found(call, *arguments)["components"]
    typed = found(call, *arguments, "--dtype", "float32")["components"]
    assert typed[0] == plain[0]
    assert typed[1]["weights_bytes"] == 2 * plain[1]["weights_bytes"]


def test_more_tokens_than_the_model_was_made_for_are_told(call: Call) -> None:
    arguments = ["llama-3-8b", "--device-memory", "80GiB"]
    (chat,) = found(call, *arguments, "--context", "16384")["components"]
    assert (chat["context"], chat["model_context"], chat["decision"]) == (16384, 8192, "whole")
    (line,) = chat["suggestions"]
    assert line.startswith("a context of 8,192 tokens, the model's own window (16,384")
    assert "try: a context of 8,192 tokens" in call(*arguments, "--context", "16384")[1]
    (chat,) = found(call, *arguments, "--context", "8192")["components"]
    assert chat["suggestions"] == []


def test_one_model_in_two_roles(call: Call) -> None:
    got = found(call, "bge-m3", "rerank:bge-m3", "--device-memory", "24GiB")
    assert {(each["name"], each["role"]) for each in got["components"]} == {
        ("bge-m3", "embedder"),
        ("rerank:bge-m3", "reranker"),
    }


def test_the_largest_quantization_that_fits(call: Call) -> None:
    arguments = ["llama-3-8b", "--largest", "--device-memory", "8GiB", "--context", "8192"]
    listed = found(call, *arguments)["quantizations"]
    whole = [each["name"] for each in listed if each["decision"] == "whole"]
    assert listed[0]["name"] == "F16"
    assert all(each["estimated"] for each in listed)
    assert whole == ["Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q3_K_S", "Q2_K"]
    _, out, _ = call(*arguments)
    assert "Q4_K_M (estimated)" in out
    code, _, err = call("bge-m3", "--largest")
    assert (code, err.count("\n")) == (1, 1)
    assert "only chat models come in GGUF quantizations" in err


USAGE = [
    ([], "MODEL: name a model, or --index ROWSxDIM"),
    ([LLAMA, LLAMA], f"MODEL: {LLAMA} stands there twice"),
    ([LLAMA, "--context", "0"], "--context"),
    ([LLAMA, "--parallel", "-1"], "--parallel"),
    ([LLAMA, "--ram", "8GiB"], "--ram: it belongs to --device-memory"),
    ([LLAMA, "--device-memory", "-1GiB"], "--device-memory: '-1GiB' is not a memory size"),
    ([LLAMA, "--device-memory", "24GiB,"], "--device-memory: '' is not a memory size"),
    ([LLAMA, "--device-memory", "24GiB", "--ram", "0"], "--ram: '0' is not a memory size"),
    ([LLAMA, "--device-memory", "9" * 400], "is more memory than any machine has"),
    ([LLAMA, "--reserve", "many"], "--reserve: 'many' is not a memory size; write 24GiB"),
    ([LLAMA, "--dtype", "nf4"], "--dtype: 'nf4' is what safetensors are loaded as, and here are"),
    (["llama-3-8b", "--dtype", "int3"], "--dtype: 'int3' is not one of float32,"),
    ([LLAMA, "--cache-dtype", "q1"], "--cache-dtype: 'q1' is not one of float32,"),
    (["--index", "1000"], "--index: '1000': write 1000000x384 or 1000000x384:flat"),
    (["--index", "_x8"], "--index: '_x8': write"),
    (["--index", "0x8"], "--index: '0x8': index: rows=0 must be at least 1"),
    (["--index", "8x8:cube"], "--index: '8x8:cube': unknown index kind 'cube'; known: auto, flat"),
    ([LLAMA, "--verify", "--device-memory", "1GiB"], "--verify: it loads models on this machine"),
    (["--index", "8x8", "--verify"], "--verify: it loads models on this machine"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_status_2_names_the_option(call: Call, arguments: list[str], message: str) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert message in line


def test_a_damaged_model_is_one_line(call: Call, tmp_path: Path) -> None:
    whole = gguf(*decoder())
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[:200])
    short = tmp_path / "short.gguf"
    short.write_bytes(whole[: len(whole) - 5000])
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "notes.txt"
    text.write_text("no model")
    broken = write_config(tmp_path / "broken", {"model_type": "llama"})
    cases = [
        (str(cut), "cut.gguf"),
        (str(short), "short.gguf"),
        (str(empty), "holds no config.json and no .gguf: not a model"),
        (str(text), "is not a .gguf file; for safetensors name the folder"),
        (str(broken), "config.json has no field 'num_hidden_layers'"),
        ("chat:bge-m3", "bge-m3 is an encoder: it cannot write text"),
    ]
    for model, message in cases:
        code, out, err = call(model)
        assert (code, out) == (1, ""), model
        assert err.startswith("Error: ")
        assert err.count("\n") == 1, err
        assert message in err


def test_a_quantization_that_is_not_there_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "model-Q8_0.gguf").write_bytes(gguf(*decoder()))
    code, _, err = call(str(tmp_path), "--quantization", "Q9_Z")
    assert (code, err.count("\n")) == (1, 1)
    assert "'Q9_Z'" in err
    assert "model-Q8_0.gguf" in err
    assert found(call, str(tmp_path), "--quantization", "q8_0")["fits"]


def test_a_model_that_is_nowhere(call: Call) -> None:
    code, out, err = call("no/where")
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "no/where" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("model", "broken", "why", "places"),
    [
        ("org/none", "", "RepositoryNotFoundError", ["path org/none", "cache org/none"]),
        ("org/none", "down", "ConnectError: Name or", ["path org/none", "cache org/none"]),
        ("rerank:org/none", "500", "HfHubHTTPError", ["path org/none", "cache org/none"]),
        ("org/closed", "", "ask for access at huggingface.co", ["cache org/closed"]),
        ("org/none:Q4_K_M", "", "RepositoryNotFoundError", ["cache org/none:Q4_K_M"]),
        ("none", "", "namespace/name", ["path none", "sentence-transformers/none"]),
    ],
)
def test_a_hub_name_that_leads_nowhere_is_one_line(
    call: Call, tmp_path: Path, *, model: str, broken: str, why: str, places: list[str]
) -> None:
    write_config(tmp_path / "org" / "closed", LLAMA_3_8B)
    with scripted_hub.serve(tmp_path) as hub:
        hub.broken = broken
        code, out, err = call(model)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1, err
    assert why in err
    assert "looked for on this machine: local path" in err
    for place in places:
        assert f"local {place}: " in err or f"cache {place}: not there" in err, err
    assert err.count("local path") == 1  # each place once, though two formats are looked for


@pytest.mark.parametrize(
    "given",
    [
        ["--device-memory", "24"],
        ["--device-memory", "48GiB,24"],
        ["--device-memory", "0", "--ram", "24"],
        ["--reserve", "24"],
    ],
)
def test_a_size_without_a_unit_is_asked_for_its_unit(call: Call, given: list[str]) -> None:
    code, out, err = call(LLAMA, *given)
    assert (code, out) == (2, "")
    assert f"Invalid value for {given[-2]}: '24' is 24 bytes; write 24GiB" in err


def test_offline_says_so(call: Call) -> None:
    code, _, err = call("org/none")
    assert (code, err.count("\n")) == (1, 1)
    assert "offline" in err.lower() or "HF_HUB_OFFLINE" in err


def test_a_cache_of_llama_cpp_is_none_of_transformers(call: Call) -> None:
    code, _, err = call("llama-3-8b", "--cache-dtype", "q8_0")
    assert (code, err.count("\n")) == (1, 1)
    assert "llama-3-8b: cache_dtype='q8_0' is a type of llama.cpp" in err
