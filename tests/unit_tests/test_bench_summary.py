"""README's one line for each kind of work: from the records alone, losses included."""

from __future__ import annotations

from typing import Any

from benchmarks.summary import summary

HERE = {"device": {"cores": 2, "name": "A CPU"}}
STARTED = {
    **HERE,
    "embedders": [
        {"name": "HuggingFaceEmbeddings", "ratio": 1.0},
        {"name": "GPUEmbeddings, torch", "ratio": 1.15},
        {"name": "GPUEmbeddings", "ratio": 5.8},
    ],
    "rerankers": [],
}
RERANKED = {
    **HERE,
    "queries": 2,
    "documents": 50,
    "throughput": [{"name": "CrossEncoder", "ratio": 1.0}, {"name": "GPURerank", "ratio": 5.957}],
}
SEARCHED = {
    **HERE,
    "batch": 256,
    "exact": [
        {
            "size": 100_000,
            "rows": [
                {"name": "FAISS", "single_us": 150, "batch_ms": 4.0},
                {"name": "community FAISS", "single_us": 160, "batch_ms": 9.0},
                {"name": "FAISSVectorStore", "single_us": 60, "batch_ms": 3.0},
            ],
        },
        {"size": 7, "rows": [{"name": "FAISS", "single_us": 1, "batch_ms": 1.0}]},
    ],
    "adding": {"size": 1000, "forms": {"lists": {"ratio": 6.97}}},
}


def _row(name: str, at_once: int, ratio: float) -> dict[str, Any]:
    return {"name": name, "concurrency": at_once, "ratio": ratio}


WRITTEN = {
    **HERE,
    "llama_cpp": [_row("xllamacpp", 1, 1.0), _row("ChatGPU(llama_cpp)", 1, 0.98)],
    "servers": [
        {
            "name": "Ollama 1",
            "rows": [
                _row("Ollama directly", 4, 1.0),
                _row("ChatGPU(ollama)", 4, 1.5),
                _row("Ollama directly", 16, 1.0),
                _row("ChatGPU(ollama)", 16, 0.89),
            ],
        }
    ],
    "transformers": [
        _row("HuggingFacePipeline", 16, 1.0),
        _row("HuggingFacePipeline, batch_size=16", 16, 10.0),
        _row("GPULLM(transformers)", 16, 12.0),
    ],
}


def test_each_kind_of_work_has_its_lines() -> None:
    text = summary([STARTED], [RERANKED], [SEARCHED], [WRITTEN])
    assert text.startswith("Other work, on 2 cores of A CPU ([all figures](docs/speed.md)):")
    assert text.splitlines()[4:] == [
        "| start a process, up to its first vector | HuggingFaceEmbeddings | 5.80 |",
        "| rerank 2 x 50 pairs | CrossEncoder | 5.96 |",
        "| search, one query over 100,000 vectors | FAISS | 2.50 |",
        "| search, 256 queries over 100,000 vectors | community FAISS | 3.00 |",
        "| add 1,000 documents, vectors as lists | community FAISS | 6.97 |",
        "| write 16 streams, Ollama 1 | Ollama directly | 0.89 |",
        "| write 16 whole answers, Transformers | HuggingFacePipeline | 12.00 |",
        "| write 16 whole answers, Transformers | HuggingFacePipeline, batch_size=16 | 1.20 |",
    ]


def test_machines_have_a_table_each_and_nothing_measured_none() -> None:
    other = {**RERANKED, "device": {"cores": 8, "name": "B CPU"}}
    assert summary([], [RERANKED, other], [], []).count("times as fast") == 2
    assert summary([], [], [], []) == ""
