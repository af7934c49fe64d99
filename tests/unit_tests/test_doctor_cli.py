"""`langchain-gpu doctor` as a terminal and a script see it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from langchain_gpu.cli import main
from langchain_gpu.doctor import Proof
from langchain_gpu.doctor.environment import Environment
from langchain_gpu.doctor.proofs import Trial
from langchain_gpu.hardware.facts import Facts
from tests.unit_tests.machines import CPU_BUILD, NO_GPU, RTX_4090

QUICK = ("doctor", "--no-proof", "--no-ollama")


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    code = exit_.value.code
    return code if isinstance(code, int) else 1 if code else 0


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def pretend(
    monkeypatch: pytest.MonkeyPatch, facts: Facts, environment: Environment | None = None
) -> None:
    environment = environment or Environment()
    monkeypatch.setattr("langchain_gpu.hardware.facts.read_facts", lambda: facts)
    monkeypatch.setattr(
        "langchain_gpu.doctor.environment.read_environment", lambda *, ollama: environment
    )


def test_a_machine_in_order_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, RTX_4090, Environment(hub_free=1))
    assert call(*QUICK) == 0  # advice does not count
    out, err = capsys.readouterr()
    assert err == ""
    assert "NVIDIA GeForce RTX 4090" in out
    assert "advice: 0 MiB are free" in out
    assert out.endswith("Nothing keeps this hardware from being used.\n")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_a_problem_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, replace(RTX_4090, torch=CPU_BUILD))
    assert call(*QUICK) == 1
    assert "problem: torch 2.13.0+cpu is a CPU build" in capsys.readouterr().out
    assert call(*QUICK, "--json") == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["severity"] == "problem"
    assert call(*QUICK, "--report") == 1


@pytest.mark.parametrize("words", [("--nonsense",), ("--proof-timeout", "0"), ("extra",)])
def test_wrong_usage_exits_with_2(words: tuple[str, ...]) -> None:
    assert call("doctor", *words) == 2


def test_proofs_run_with_the_time_that_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, NO_GPU)
    asked: list[tuple[str, float]] = []

    def run(trial: Trial, seconds: float) -> Proof:
        asked.append((trial.name, seconds))
        return Proof(name=trial.name, device=trial.device, passed=trial.name != "FAISS search")

    monkeypatch.setattr("langchain_gpu.doctor.waves.run", run)
    assert call("doctor", "--json", "--no-ollama", "--proof-timeout", "7") == 1
    assert ("matrix product", 7.0) in asked
    found = json.loads(capsys.readouterr().out)
    assert len(found["proofs"]) == len(asked)
    assert [problem["what"] for problem in found["problems"] if problem["severity"] == "problem"]


def test_no_proof_runs_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, NO_GPU)

    def run(trial: Trial, seconds: float) -> Proof:
        raise AssertionError(trial)

    monkeypatch.setattr("langchain_gpu.doctor.waves.run", run)
    assert call(*QUICK, "--json") == 0
    assert json.loads(capsys.readouterr().out)["proofs"] == []


def test_a_bug_report_names_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uuid = "GPU-5e6f7a8b-1111-4222-8333-444455556666"
    token = "hf_" + "aBcDeFgHiJkLmNoPqRsT"
    home = Path.home()
    facts = replace(RTX_4090, environ={"CUDA_VISIBLE_DEVICES": f"{uuid}x"})
    environment = Environment(hub_cache="/home/adalovelace/hub", hub_free=1, pickled=(f"{home}/s",))
    pretend(monkeypatch, facts, environment)
    monkeypatch.setenv("MY_TOKEN", token)
    for form in ((), ("--json",)):
        assert call(*QUICK, "--report", *form) == 1  # the card is hidden
        out = capsys.readouterr().out
        for secret in (uuid, token, "adalovelace", f"{home}/s"):
            assert secret not in out
        assert "CUDA_VISIBLE_DEVICES" in out
    assert call(*QUICK) == 1
    assert uuid in capsys.readouterr().out  # on one's own terminal nothing is hidden


def test_the_whole_of_it_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--report", "--no-ollama", "--proof-timeout", "120") in {0, 1}
    out = capsys.readouterr().out
    assert "| matrix product on cpu | yes |" in out
    assert "| FAISS search on cpu | yes |" in out
