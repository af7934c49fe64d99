"""`langchain-gpu demo`: collect, embed, index, save, ask, and say what it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_gpu.cli import models
from langchain_gpu.cli.options import CHAT_MODEL, EMBEDDING_MODEL, DeviceOption, FallbackOption
from langchain_gpu.cli.output import NARROW, Typewriter, say, show_sources, stderr, stdout

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.runnables import Runnable

    from langchain_gpu.chat_models import ChatGPU
    from langchain_gpu.demo.corpus import Corpus
    from langchain_gpu.embeddings import GPUEmbeddings
    from langchain_gpu.engine.report import Report

STORE = Path(".demo")
LIMIT = 12_000
SOURCES = 3  # chunks an answer is made from: a small model is lost in more
ANSWER_TOKENS = 96  # then it is cut: this is a demonstration
QUESTIONS = [
    "What is the timeit module for?",
    "What is the difference between copy and deepcopy?",
    "What does Beautiful Soup do?",
]


@dataclass(slots=True)
class Run:
    """What is to be told at the end; seconds throughout.

    Attributes:
        stages: Time of each stage, in their order.
        answers: Time to the first word, time to the last one, and tokens of each answer.
    """

    stages: dict[str, float] = field(default_factory=dict)
    answers: list[tuple[float, float, int]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        say(f"{name} ...", "dim")
        started = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - started


def demo(
    *,
    embedding_model: Annotated[
        str, typer.Option("--embedding-model", help="Name or folder.")
    ] = EMBEDDING_MODEL,
    chat_model: Annotated[
        str, typer.Option("--chat-model", help="Name, folder, or .gguf file.")
    ] = CHAT_MODEL,
    device: DeviceOption = "auto",
    fallback: FallbackOption = "cpu",
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Most documents to collect.")
    ] = LIMIT,
    questions: Annotated[
        list[str] | None,
        typer.Option("--question", help="Ask this instead of our three; may be repeated."),
    ] = None,
) -> None:
    """Index the documentation that lies on this machine, and ask it three questions.

    Docstrings of the standard library and the installed packages are read, never imported, and the
    packages' README texts. The store is left in .demo, for `langchain-gpu ask`.
    """
    from langchain_gpu.cli.progress import IndexProgress
    from langchain_gpu.demo.corpus import collect
    from langchain_gpu.loaders import Chunker
    from langchain_gpu.rag import create_rag_chain
    from langchain_gpu.vectorstores import FAISSVectorStore

    run, place = Run(), models.Place(device, fallback)
    with run.stage("Collect documents"):
        corpus = collect(limit)
    progress = IndexProgress(len(corpus.documents), stderr(), "Embedding")
    embeddings = models.make_embeddings(embedding_model, place, on_event=progress.on_event)
    # What is missing for the last stages is said now, not after minutes of embedding.
    store = FAISSVectorStore(embeddings, device=place.search)
    chat = models.make_chat(chat_model, place, max_tokens=ANSWER_TOKENS)
    with run.stage("Find the chat model"):
        say(f"  {chat.backend_reason}", "dim")
    with run.stage("Load the embedding model"):
        say(f"  {embeddings.devices[0]}: {embeddings.devices[0].reason}", "dim")
    with run.stage("Cut into chunks"):
        chunks = Chunker(embeddings).split(corpus.documents)
        texts = [chunk.page_content for chunk in chunks]
    with run.stage("Embed"), progress:
        progress.embedding(len(corpus.documents), len(texts))
        rows = embeddings.embed_with_report(texts)
        progress.done(len(corpus.documents))
    with run.stage("Index"):
        store.add_embeddings(
            zip(texts, rows.vectors, strict=True), [chunk.metadata for chunk in chunks]
        )
    with run.stage("Save"):
        store.save_local(STORE)
    with run.stage("Load the chat model"):
        say(f"  {chat.devices[0]}: {chat.devices[0].reason}", "dim")
    chain = create_rag_chain(store.as_retriever(k=SOURCES), chat)
    for number, question in enumerate(questions or QUESTIONS, start=1):
        _ask(chain, chat, question, number, run)
    _show(run, corpus, embeddings, rows.report, chat)
    chat.close()
    embeddings.close()


def _ask(
    chain: Runnable[dict[str, Any], dict[str, Any]],
    chat: ChatGPU,
    question: str,
    number: int,
    run: Run,
) -> None:
    console = stdout()
    console.print(f"\n{number}. {question}\n", style="bold")
    writer = Typewriter(min(console.width, NARROW))
    answer = ""
    documents: list[Document] = []
    started = first = time.perf_counter()
    for part in chain.stream({"input": question}):
        documents = part.get("context", documents)
        if piece := part.get("answer"):
            first = first if answer else time.perf_counter()
            answer += piece
            writer.write(piece)
    ended = time.perf_counter()
    tokens = chat.get_num_tokens(answer)
    writer.write(" [...]" if tokens >= ANSWER_TOKENS else "")
    writer.close()
    console.print()
    show_sources(documents, console)
    run.answers.append((first - started, ended - started, tokens))


def _show(
    run: Run, corpus: Corpus, embeddings: GPUEmbeddings, report: Report, chat: ChatGPU
) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False, title="What it took", width=NARROW)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(ratio=1)
    where = embeddings.devices[0]
    seconds = run.stages["Embed"]
    table.add_row(
        "Documents",
        f"{len(corpus.documents):,} in {report.items:,} chunks; {corpus.files:,} Python files "
        f"parsed, {corpus.skipped:,} skipped",
    )
    table.add_row("Embedding model", f"{embeddings.model}, {embeddings.backend_reason}")
    table.add_row(
        "  runs on",
        f"{where} ({where.name}) in {embeddings.computed_in}: {where.reason}",
    )
    table.add_row(
        "  speed",
        f"{len(corpus.documents) / seconds:,.0f} documents/s, {report.tokens_per_second:,.0f} "
        f"tokens/s, padding {report.padding - 1:.1%}",
    )
    where = chat.devices[0]
    writing = sum(total - first for first, total, _ in run.answers)
    tokens = sum(tokens - 1 for _, _, tokens in run.answers)
    table.add_row("Chat model", f"{chat.model}, {chat.backend_reason}")
    table.add_row("  runs on", f"{where} ({where.name}): {where.reason}")
    table.add_row("  speed", f"{tokens / writing:,.0f} tokens/s" if writing and tokens > 0 else "-")
    table.add_section()
    for name, taken in run.stages.items():
        table.add_row(name, f"{taken:6.1f} s")
    for number, (first, total, _) in enumerate(run.answers, start=1):
        table.add_row(f"Question {number}", f"{total:6.1f} s, first word after {first:.1f} s")
    table.add_row(
        "All", f"{sum(run.stages.values()) + sum(total for _, total, _ in run.answers):6.1f} s"
    )
    console = stdout()
    console.print()
    console.print(table)
    console.print(f'Ask on:  langchain-gpu ask "your question" --store {STORE}')
