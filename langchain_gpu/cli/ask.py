"""`langchain-gpu ask`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from langchain_gpu.cli import models
from langchain_gpu.cli.options import (
    CHAT_MODEL,
    DeviceOption,
    FallbackOption,
    JsonOption,
    StoreOption,
)
from langchain_gpu.cli.output import (
    Typewriter,
    plural,
    print_json,
    quiet_stdout,
    show_sources,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from langchain_core.documents import Document

ChatOption = Annotated[
    str,
    typer.Option(
        "--chat-model",
        help="Name, folder, or .gguf file of the chat model; with --base-url the server's name of "
        "it.",
    ),
]
BackendOption = Annotated[
    Literal["auto", "llama_cpp", "transformers", "ollama", "openai", "triton"],
    typer.Option("--backend", help="What runs the chat model."),
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="A server that runs the chat model; --device is then for the other models.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--embedding-model", help="Name or folder.", show_default="the store's"),
]
KOption = Annotated[int, typer.Option("-k", min=1, help="Chunks to answer from.")]
RerankOption = Annotated[
    str | None,
    typer.Option(
        "--rerank", metavar="MODEL", help="Name or folder of a reranker, for a second look."
    ),
]
# Chunks a reranker looks at for each that it keeps, and the fewest.
_CANDIDATES = 5
_FEWEST = 30


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What you want to know.")],
    *,
    store: StoreOption,
    chat_model: ChatOption = CHAT_MODEL,
    backend: BackendOption = "auto",
    base_url: BaseUrlOption = None,
    embedding_model: ModelOption = None,
    k: KOption = 4,
    rerank: RerankOption = None,
    device: DeviceOption = "auto",
    fallback: FallbackOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Answer a question from a store, then show the sources with their scores.

    A score is the cosine of question and source, 1 at most; with --rerank it is the reranker's,
    whose scale is its own.
    """
    parts = _parts(
        question,
        store,
        models.Place(device, fallback),
        chat_model=chat_model,
        backend=backend,
        base_url=base_url,
        embedding_model=embedding_model,
        k=k,
        rerank=rerank,
    )
    with quiet_stdout(active=json), closing(parts):
        if json:
            answer, documents = _collect(parts, lambda _: None)
        else:
            writer = Typewriter()
            _, documents = _collect(parts, writer.write)
            writer.close()
    if json:
        print_json({"answer": answer, "sources": [_source(document) for document in documents]})
    elif documents:
        console = stdout()
        console.print("\nSources", style="bold")
        show_sources(documents, console)


def _parts(
    question: str,
    store: Path,
    place: models.Place,
    *,
    chat_model: str,
    backend: str,
    base_url: str | None,
    embedding_model: str | None,
    k: int,
    rerank: str | None,
) -> Generator[dict[str, Any]]:
    """Stream what the chain yields: the sources as `context`, then pieces of the `answer`."""
    from langchain_gpu.rag import create_rag_chain
    from langchain_gpu.vectorstores import FAISSVectorStore

    if not models.is_store(store):
        raise ValueError(
            f"{store} holds no store; make one: langchain-gpu index PATH --store {store}"
        )
    model = models.stored_model(store) if embedding_model is None else embedding_model
    if model is None:
        raise ValueError(f"{store} does not name its model; pass --embedding-model")
    embeddings = models.make_embeddings(model, place)
    vectors = FAISSVectorStore.load_local(store, embeddings, device=place.search)
    chat = models.make_chat(chat_model, place, backend=backend, base_url=base_url)
    reranker = None if rerank is None else models.make_reranker(rerank, place, top_n=k)
    fetched = k if reranker is None else max(_FEWEST, _CANDIDATES * k)
    retriever = vectors.as_retriever(k=fetched)
    try:
        yield from create_rag_chain(retriever, chat, reranker=reranker).stream({"input": question})
    finally:
        chat.close()
        embeddings.close()
        if reranker is not None:
            reranker.close()


def _collect(
    parts: Iterable[dict[str, Any]], write: Callable[[str], object]
) -> tuple[str, list[Document]]:
    """Put the answer together. Where someone watches, say what goes on until it begins."""
    answer: list[str] = []
    documents: list[Document] = []
    with stderr().status("looking in the store") as status:
        for part in parts:
            if "context" in part:
                documents = part["context"]
                status.update(f"{plural(len(documents), 'chunk')} found; waiting for the answer")
            if piece := part.get("answer"):
                status.stop()
                answer.append(piece)
                write(piece)
    return "".join(answer), documents


def _source(document: Document) -> dict[str, Any]:
    metadata = dict(document.metadata)
    found = {
        "source": metadata.get("source"),
        "score": metadata.get("score"),
        "text": document.page_content,
    }
    if "relevance_score" in metadata:
        found["relevance_score"] = metadata["relevance_score"]
    return found
