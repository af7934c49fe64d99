"""all-MiniLM-L6-v2 on real text: the vectors people have stored stay valid."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import numpy as np
import pytest
from langchain_huggingface import HuggingFaceEmbeddings

from langchain_gpu import GPUEmbeddings
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.models.resolve import resolve
from tests.unit_tests.conftest import MINILM

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::langchain_gpu.events.TruncationWarning"),
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Docstrings of a few standard modules, and texts that trip tokenizers."""
    source = Path(statistics.__file__).parent
    found = ["", " ", "\n", "a\nb", "\x00", "naïve 漢字 🙂", "x" * 5000]
    for name in ("statistics", "argparse", "shutil", "subprocess"):
        path = source / f"{name}.py"
        if not path.is_file():
            path = source / name / "__init__.py"
        found += [
            ast.get_docstring(node) or node.__class__.__name__
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)
        ]
    return found


@pytest.fixture(scope="module")
def theirs(texts: list[str]) -> Vectors:
    """What the class we replace returns; it rewrites newlines, which this tokenizer ignores."""
    peer = HuggingFaceEmbeddings(model=str(resolve(MINILM).path))
    return np.array(peer.embed_documents(texts), np.float32)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999), ("auto", 0.995)])
def test_the_same_vectors(texts: list[str], theirs: Vectors, dtype: str, least: float) -> None:
    ours = GPUEmbeddings(model=MINILM, dtype=dtype).embed_to_array(texts)
    cosines = (ours * theirs).sum(axis=1)  # both have unit length
    assert cosines.min() >= least
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_a_text_alone_and_in_a_batch(texts: list[str]) -> None:
    embeddings = GPUEmbeddings(model=MINILM, dtype="float32")
    together = embeddings.embed_to_array(texts)
    alone = np.array([embeddings.embed_query(text) for text in texts[:25]])
    assert (together[:25] * alone).sum(axis=1).min() >= 0.9999
