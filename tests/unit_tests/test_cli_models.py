"""The command line with the real small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from langchain_gpu.cli import main

pytestmark = pytest.mark.models

CITIES = {
    "rome.md": "# Rome\n\nThe Colosseum in Rome was completed in the year 80.",
    "oslo.txt": "Oslo is the capital of Norway.",
    "rivers.csv": "city,river\nParis,Seine\nLondon,Thames\n",
    "code.py": 'def bubble(items):\n    """Sort slowly."""\n    return sorted(items)\n',
}


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    for name, text in CITIES.items():
        (docs / name).write_text(text)
    return docs


def test_index_change_ask(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("index", "docs", "--store", "store", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    nothing = {"updated": 0, "deleted": 0, "unchanged": 0, "empty": 0, "failed": []}
    assert done == nothing | {"added": 4}
    (folder / "oslo.txt").write_text("Oslo is the capital of Norway. It lies on a fjord.")
    (folder / "rome.md").unlink()
    assert call("index", "docs", "--store", "store", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done == nothing | {"added": 0, "updated": 1, "deleted": 1, "unchanged": 2}
    question = ["ask", "Which river flows through Paris?", "--max-tokens", "12"]
    assert call(*question, "--store", "store", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"].strip()
    best = found["sources"][0]
    assert best["source"] == str(folder / "rivers.csv")
    assert best["text"] == "city: Paris\nriver: Seine"
    assert 0.3 < best["score"] <= 1.0
    assert len(found["sources"]) == 4


def test_an_answer_is_shown_with_its_sources(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("index", str(folder), "--store", "store")
    capsys.readouterr()
    question = ["ask", "What is the capital of Norway?", "--max-tokens", "12"]
    assert call(*question, "--store", "store", "-k", "1") == 0
    answer, sources = capsys.readouterr().out.split("\nSources\n")
    assert answer.strip()
    assert sources.splitlines()[0].endswith("docs/oslo.txt")


def test_a_store_of_another_model_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("index", str(folder), "--store", "store")
    manifest = tmp_path / "store" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["identity"]["model"] = "another/model"
    values["identity"]["probe"] = [1.0] * len(values["identity"]["probe"])
    manifest.write_text(json.dumps(values))
    capsys.readouterr()
    mine = ["--embedding-model", "sentence-transformers/all-MiniLM-L6-v2"]
    assert call("index", str(folder), "--store", "store", *mine) == 1
    err = capsys.readouterr().err
    assert "the store was built with 'another/model'" in err
    assert json.loads(manifest.read_text()) == values


def test_a_model_that_is_nowhere_is_one_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = call("index", str(folder), "--store", "store", "--embedding-model", "no/where")
    assert code == 1
    err = capsys.readouterr().err
    assert "Error: no safetensors files found for 'no/where'" in err
    assert "Traceback" not in err


def test_chunks_fit_the_window_of_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "long.txt").write_text("A sentence about nothing at all. " * 400)
    assert call("index", str(folder), "--store", "store", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["added"] == 5
    assert "longer than the" not in captured.err, "nothing was truncated"
