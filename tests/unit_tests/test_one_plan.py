"""One plan for a chat model, an embedder and an index, followed by each of the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

from langchain_gpu import ChatGPU, FAISSVectorStore, GPUEmbeddings, create_rag_chain
from langchain_gpu.engine.embedder import load
from langchain_gpu.events import BatchDone
from langchain_gpu.models.headers import read_info
from langchain_gpu.models.resolve import resolve
from langchain_gpu.planner import Chat, Encoder, Index, Plan, imagined, plan
from langchain_gpu.search.kinds.shapes import bytes_needed
from tests.unit_tests.conftest import MINILM
from tests.unit_tests.gguf_bert import write_gguf

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
TEXTS = [
    "The office opens at nine in the morning.",
    "Cars park behind the house.",
    "Lunch is served at noon in the garden.",
    "The library lends every book for three weeks.",
]
CONTEXT, TOKENS = 768, 512

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def common() -> Plan:
    """A machine with a CPU alone."""
    gguf = resolve(SMOLLM, kind="gguf", local_files_only=True).path
    return plan(
        [
            Chat(info=read_info(gguf), context=CONTEXT, cache_dtype="q8_0", sequences=2),
            Encoder(info=read_info(MINILM), dtype="float32", max_batch_tokens=TOKENS),
            Index(kind="flat", rows=5000, dimension=384, bytes=bytes_needed("flat", 5000, 384)),
        ],
        imagined([], 16 * 2**30),
    )


def test_a_rag_chain_from_one_plan(common: Plan) -> None:
    events: list[Any] = []
    with (
        ChatGPU(model=SMOLLM, plan=common, temperature=0, max_tokens=16, n_threads=1) as chat,
        GPUEmbeddings(model=MINILM, plan=common, on_event=events.append) as embeddings,
    ):
        store = FAISSVectorStore(embeddings, plan=common)
        store.add_documents([Document(text) for text in TEXTS * 40])
        chain = create_rag_chain(store.as_retriever(k=2), chat)
        answer = chain.invoke("When does the office open?")

        assert {common[name].decision for name in ("chat", "embedder", "index")} == {"cpu"}
        # The chat: its place, its window, its slots and its cache.
        assert [device.kind for device in chat.devices] == ["cpu"]
        assert chat.context_length == common["chat"].context == CONTEXT
        with chat._hold() as generator:
            server: Any = vars(generator)["_server"]
            settings = server.settings
        assert (settings.n_parallel, settings.cache_dtype) == (2, "q8_0")
        # The embedder: no batch is larger than planned, and none was small for want of texts.
        batches = [event for event in events if isinstance(event, BatchDone)]
        sizes = [event.padded_tokens for event in batches]
        assert len(sizes) > 2
        assert TOKENS // 2 < max(sizes) <= TOKENS == common["embedder"].max_batch_tokens
        assert {str(event.device) for event in batches} == {"cpu"}
        # The index.
        assert store.device.kind == "cpu"
    assert answer["answer"]
    assert "office" in answer["context"][0].page_content


def test_an_embedder_in_a_gguf_file_gets_the_window_of_its_plan(tmp_path: Path) -> None:
    folder = resolve(MINILM, local_files_only=True).path
    file = write_gguf(folder, tmp_path / "minilm.gguf")
    planned = plan([Encoder(info=read_info(file), max_length=100)], imagined([], 2**33))
    with (
        GPUEmbeddings(model=str(file), plan=planned) as embeddings,
        GPUEmbeddings(model=MINILM, device="cpu", dtype="float32") as others,
    ):
        vectors = embeddings.embed_to_array(TEXTS)
        with embeddings._hold(load) as embedder:
            encoder: Any = embedder.encoder
        assert encoder._open.settings.n_ctx == planned["embedder"].max_batch_tokens == 256
        near = (vectors * others.embed_to_array(TEXTS)).sum(axis=1)
    assert np.all(near > 0.999)
