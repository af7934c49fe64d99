"""Moving in from langchain-community's FAISS by the command, and as the page on it says."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from langchain_gpu import FAISSVectorStore
from langchain_gpu.cli import main, models
from tests.unit_tests.community_pickles import Calls, folder_of, written
from tests.unit_tests.community_stores import EMBEDDING, agree, saved, theirs


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "make_embeddings", lambda *_, **__: EMBEDDING)
    right = theirs(normalize_L2=True)
    words = ["import-faiss", str(saved(right, tmp_path / "old")), "--store", str(tmp_path / "new")]
    code, out, err = run(capsys, *words, "--normalize-l2")
    assert (code, err) == (0, "")
    assert out.startswith("300 documents moved to ")
    assert out.endswith("(metric cosine)\n")
    agree(FAISSVectorStore.load_local(tmp_path / "new", EMBEDDING), right, cosine=True)
    code, _, err = run(capsys, *words)
    assert (code, "is not empty; name a new folder" in err) == (1, True)


def test_the_command_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "make_embeddings", lambda *_, **__: EMBEDDING)
    folder_of(written(Calls(os.system, "true")), tmp_path)
    code, out, err = run(capsys, "import-faiss", str(tmp_path), "--store", str(tmp_path / "new"))
    assert (code, out) == (1, "")
    assert "system" in err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


# What the page promises.

PAGE = (Path(__file__).parents[2] / "docs" / "community.md").read_text()


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old_store = theirs()
    saved(old_store, tmp_path / "old_folder")
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    session: dict[str, Any] = {"embedding": EMBEDDING, "old_store": old_store}
    exec(compile(code, "community.md", "exec"), session)  # noqa: S102 - our own page
    agree(session["store"], old_store)


def test_the_pages_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = re.findall(r"^langchain-gpu (.*)$", PAGE, re.MULTILINE)
    code, out, _ = run(capsys, "import-faiss", "--help")
    assert code == 0
    assert [word for word in line.split() if word.startswith("--") and word not in out] == []
    assert "--normalize-l2" in out


def test_old_arguments_are_refused_and_not_ignored() -> None:
    ours = FAISSVectorStore.from_community(theirs(), EMBEDDING)
    with pytest.raises(TypeError, match="'fetch_k'"):
        ours.similarity_search("a", fetch_k=20)
    with pytest.raises(TypeError, match="'score_threshold'"):
        ours.similarity_search_with_score("a", score_threshold=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"unknown filter operator '\$neq'; known: .*\$ne "):
        ours.similarity_search("a", filter={"n": {"$neq": 1}})
    with pytest.raises(ValueError, match=r"\$in"):
        ours.similarity_search("a", filter={"lang": ["de", "en"]})
    with pytest.raises(TypeError, match="from_community makes one"):
        ours.merge_from(theirs())
