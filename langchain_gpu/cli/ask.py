"""`langchain-gpu ask`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
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

    from langchain_gpu.chat_models import ChatGPU
    from langchain_gpu.cli.ending import Ending
    from langchain_gpu.rerank import GPURerank
    from langchain_gpu.vectorstores import FAISSVectorStore

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
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")]
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
    max_tokens: MaxTokensOption = models.MAX_ANSWER_TOKENS,
    rerank: RerankOption = None,
    device: DeviceOption = "auto",
    fallback: FallbackOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Answer a question from a store, then show the sources with their scores.

    A score is the cosine of question and source, 1 at most; with --rerank it is the reranker's,
    whose scale is its own.
    """
    from langchain_gpu.cli.ending import Ending

    place, ending = models.Place(device, fallback), Ending()
    parts = _parts(
        question,
        partial(_opened, store, embedding_model, place),
        partial(
            models.make_chat,
            chat_model,
            place,
            max_tokens=max_tokens,
            backend=backend,
            base_url=base_url,
        ),
        None if rerank is None else partial(models.make_reranker, rerank, place, top_n=k),
        k=k,
        ending=ending,
    )
    with quiet_stdout(active=json), closing(parts):
        if json:
            answer, documents = _collect(parts, lambda _: None)
        else:
            writer = Typewriter()
            _, documents = _collect(parts, writer.write)
            writer.close()
    if ending.reason == "length":
        stderr().print(f"The answer was cut; --max-tokens is {max_tokens}.")
    if json:
        sources = [_source(document) for document in documents]
        print_json({"answer": answer, "finish_reason": ending.reason, "sources": sources})
    elif documents:
        console = stdout()
        console.print("\nSources", style="bold")
        show_sources(documents, console)


def _parts(
    question: str,
    open_store: Callable[[], AbstractContextManager[FAISSVectorStore]],
    make_chat: Callable[[], ChatGPU],
    make_reranker: Callable[[], GPURerank] | None,
    *,
    k: int,
    ending: Ending,
) -> Generator[dict[str, Any]]:
    """Stream what the chain yields: the sources as `context`, then pieces of the `answer`.

    Nothing is made before the first is asked for, nor kept after the last.
    """
    from langchain_gpu.rag import create_rag_chain

    with ExitStack() as made:
        vectors = made.enter_context(open_store())
        chat = made.enter_context(closing(make_chat()))
        reranker = None
        if make_reranker is not None:
            reranker = made.enter_context(closing(make_reranker()))
        fetched = k if reranker is None else max(_FEWEST, _CANDIDATES * k)
        retriever = vectors.as_retriever(k=fetched)
        chain = create_rag_chain(retriever, chat, reranker=reranker)
        yield from chain.stream({"input": question}, {"callbacks": [ending]})


@contextmanager
def _opened(
    store: Path, embedding_model: str | None, place: models.Place
) -> Iterator[FAISSVectorStore]:
    """Open a store with its embedding model, or with the one that is named.

    Raises:
        ValueError: There is no store, or no name of its model.
        StoreError: The store cannot be read, or was built with another model.
    """
    from langchain_gpu.vectorstores import FAISSVectorStore

    if not models.is_store(store):
        raise ValueError(
            f"{store} holds no store; make one: langchain-gpu index PATH --store {store}"
        )
    model = models.stored_model(store) if embedding_model is None else embedding_model
    if model is None:
        raise ValueError(f"{store} does not name its model; pass --embedding-model")
    with closing(models.make_embeddings(model, place)) as embeddings:
        yield FAISSVectorStore.load_local(store, embeddings, device=place.search)


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
