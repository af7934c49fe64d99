from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version

import pytest

from langchain_gpu import __version__
from langchain_gpu.doctor import needs, render, report
from langchain_gpu.doctor.environment import read_environment
from langchain_gpu.doctor.report import has_problems
from langchain_gpu.hardware.cpu import CPU
from langchain_gpu.hardware.facts import Facts
from langchain_gpu.hardware.gpu import GPU
from langchain_gpu.hardware.nvidia import Nvidia
from langchain_gpu.hardware.torch_build import TorchBuild
from tests.unit_tests.text_snapshots import drawn

CARD = GPU(name="NVIDIA H100 80GB HBM3", capability="9.0", memory_total=80 << 30)
GOOD = Facts(
    cpu=CPU(name="Xeon", isa=("avx2",), cores=2, memory_total=8 << 30, memory_free=4 << 30),
    nvidia=Nvidia(gpus=(CARD,), driver="580.95", cuda=(13, 0)),
    torch=TorchBuild(version="2.13.0+cu130", cuda="13.0", archs=("sm_90",)),
)
TRAPPED = replace(GOOD, torch=TorchBuild(version="2.13.0+cpu"))


def test_a_report_is_json_with_the_promised_keys() -> None:
    found = json.loads(json.dumps(report(GOOD)))
    assert set(found) == {
        "version", "python", "platform", "devices", "problems", "proofs", "extras", "versions"
    }  # fmt: skip
    assert found["version"] == __version__
    for device in found["devices"]:
        assert set(device) == {
            "kind", "index", "name", "reason", "cores", "isa", "memory_total", "memory_free",
            "capability", "dtype", "dtype_reason", "notes",
        }  # fmt: skip
    assert [device["kind"] for device in found["devices"]] == ["cuda", "cpu"]
    assert found["devices"][1]["isa"] == ["avx2"]


def test_a_trap_is_told_with_its_remedy() -> None:
    found = report(TRAPPED)
    (problem,) = found["problems"]
    assert set(problem) == {"what", "remedy", "severity"}
    assert "CPU build" in problem["what"]
    assert has_problems(found)


def test_advice_comes_after_problems_and_does_not_count() -> None:
    environ = {"CUDA_LAUNCH_BLOCKING": "1"}
    found = report(replace(GOOD, environ=environ))
    assert [problem["severity"] for problem in found["problems"]] == ["advice"]
    assert not has_problems(found)
    assert "Nothing keeps this hardware from being used." in drawn(render(found))
    both = report(replace(TRAPPED, environ=environ))
    assert [problem["severity"] for problem in both["problems"]] == ["problem", "advice"]
    assert "1 problem keeps hardware from being used." in drawn(render(both))


def test_extras_are_the_metadatas() -> None:
    found = report(GOOD)["extras"]
    lines = requires("langchain-gpu") or []
    assert set(found) == {
        line.split("extra == ")[1].strip("'\"") for line in lines if "extra" in line
    }
    assert found["local"]["modules"]["torch"] == version("torch")
    assert found["local"]["install"] == 'pip install "langchain-gpu[local]"'
    assert found["local"]["installed"] is True


def fake_metadata(monkeypatch: pytest.MonkeyPatch, lines: list[str], **versions: str) -> None:
    def find(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(needs, "requires", lambda _: lines)
    monkeypatch.setattr(needs, "version", find)


def test_an_extra_is_installed_when_all_of_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=1",
        'one>=1; extra == "a"',
        'two; extra == "a"',
        'three>=2 ; extra == "b"',
        'never; sys_platform == "amiga" and extra == "a"',
    ]
    fake_metadata(monkeypatch, lines, numpy="2.0", one="1.5+cpu", three="1.0")
    found = report(GOOD)
    assert found["extras"] == {
        "a": {
            "installed": False,
            "modules": {"one": "1.5+cpu", "two": None},
            "install": 'pip install "langchain-gpu[a]"',
        },
        "b": {
            "installed": False,
            "modules": {"three": "1.0"},
            "install": 'pip install "langchain-gpu[b]"',
        },
    }
    assert found["versions"] == {
        "numpy": "2.0",
        "one": "1.5+cpu",
        "three": "1.0",
        "NVIDIA driver": "580.95",
    }
    assert found["problems"] == [
        {
            "what": "three 1.0 is installed, and >=2 is needed",
            "remedy": 'pip install "langchain-gpu[b]"',
            "severity": "advice",
        }
    ]


def test_a_source_tree_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(needs, "requires", missing)
    assert report(GOOD)["extras"] == {}


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("torch>=99", "problem"),
        ('torch>=99; extra == "local"', "problem"),
        ('torch>=99; extra == "faiss-gpu"', "problem"),
        ('torch>=99; extra == "cli"', "advice"),
    ],
)
def test_a_wrong_version_counts_where_hardware_is_used_through_it(
    monkeypatch: pytest.MonkeyPatch, line: str, severity: str
) -> None:
    fake_metadata(monkeypatch, [line], torch="2.13.0")
    (problem,) = report(GOOD)["problems"]
    assert problem["what"] == "torch 2.13.0 is installed, and >=99 is needed"
    assert problem["severity"] == severity


ENGINES = ['torch>=2; extra == "local"', 'xllamacpp; extra == "llama-cpp"']


def test_where_nothing_runs_a_model_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_metadata(monkeypatch, ENGINES)
    (problem,) = report(Facts(cpu=GOOD.cpu))["problems"]
    assert "no model can run here yet" in problem["what"]
    assert problem["severity"] == "advice", "it keeps no hardware from being used"
    assert problem["remedy"] == 'pip install "langchain-gpu[local,openvino,faiss]"'


def test_a_card_without_torch_has_one_line_that_brings_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_metadata(monkeypatch, ENGINES)
    (problem,) = report(replace(GOOD, torch=None))["problems"]
    assert "torch is not installed" in problem["what"]


def test_either_engine_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in ("torch", "xllamacpp"):
        fake_metadata(monkeypatch, ENGINES, **{engine: "2.13.0"})
        assert report(Facts(cpu=GOOD.cpu))["problems"] == []


def test_a_drawing_fits_80_columns_and_names_every_device() -> None:
    text = drawn(render(report(GOOD)))
    for words in ("cuda:0", "NVIDIA H100 80GB HBM3 · compute capability 9.0 · 80.0 GiB", "Xeon",
                  "2 cores · 8.0 GiB (4.0 GiB free)", "torch 2.13.0+cu130 runs on"):  # fmt: skip
        assert words in text


def test_a_remedy_can_be_copied_from_one_line() -> None:
    text = drawn(render(report(TRAPPED)))
    remedy = "pip install --force-reinstall torch -i https://download.pytorch.org/whl/cu130"
    assert text.splitlines().count(remedy) == 1


def test_an_empty_report_can_be_drawn() -> None:
    assert "cpu" in drawn(
        render({**report(Facts(cpu=CPU(name="x"))), "extras": {}, "versions": {}}), 40
    )


def test_without_rich_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(GOOD)
    for name in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ImportError, match=r"pip install \"langchain-gpu\[cli\]\""):
        render(found)


def test_a_report_of_this_machine_can_be_drawn() -> None:
    assert drawn(render(report(environment=read_environment(ollama=False))))
