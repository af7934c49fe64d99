"""ONNX Runtime reports to its vendor by default; here nothing leaves and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from langchain_gpu.engine.runtimes.no_telemetry import importing_without_telemetry

SWITCH = "ORT_DISABLE_TELEMETRY"
ROOT = Path(__file__).parents[2]
EMBED = """
import os, sys
from langchain_gpu import GPUEmbeddings
assert GPUEmbeddings(model=sys.argv[1], backend="onnx").embed_query("one")
assert "ORT_DISABLE_TELEMETRY" not in os.environ
"""


def test_a_process_that_embeds_gets_no_identification(
    tiny: Callable[[str], str], tmp_path: Path
) -> None:
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    others = {name: value for name, value in os.environ.items() if name != SWITCH}
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", EMBED, tiny("bert")],
        cwd=ROOT,
        env=others | home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("model.onnx")), "that is the cache it writes into"
    assert not list(tmp_path.rglob("*deviceid*"))
    assert not list(tmp_path.rglob("*.db"))


def test_one_that_runs_already_stops_its_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    stopped: list[bool] = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: stopped.append(True))
    with importing_without_telemetry():
        assert os.environ[SWITCH] == "1"
    assert SWITCH not in os.environ
    assert stopped


def test_the_users_own_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: pytest.fail("not asked"))
    with importing_without_telemetry():
        assert os.environ[SWITCH] == "0"
    assert os.environ[SWITCH] == "0"
