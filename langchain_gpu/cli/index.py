"""`langchain-gpu index`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_gpu.cli import interrupt, models
from langchain_gpu.cli.options import (
    EMBEDDING_MODEL,
    DeviceOption,
    FallbackOption,
    JsonOption,
    StoreOption,
)
from langchain_gpu.cli.output import (
    plural,
    print_json,
    quiet_stdout,
    say,
    shown_path,
    stderr,
    stdout,
)
from langchain_gpu.store import lock
from langchain_gpu.store.errors import StoreChangedError

if TYPE_CHECKING:
    from langchain_gpu.cli.sync import Summary
    from langchain_gpu.loaders import Found
    from langchain_gpu.vectorstores import FAISSVectorStore

PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH",
        help="Files, and folders of md, txt, rst, html, pdf, py, json, jsonl, csv and tsv.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--embedding-model",
        help="Name or folder.",
        show_default=f"the store's, or {EMBEDDING_MODEL}",
    ),
]
ChunkOption = Annotated[
    int | None,
    typer.Option(
        "--chunk-tokens",
        min=1,
        help="Most tokens in a chunk.",
        show_default="the model's window, at most 512",
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        min=0,
        help="Most tokens of a chunk repeated in the next.",
        show_default="an eighth",
    ),
]

NAMED = 5  # file types that are named among those passed over
# What an interrupted first save may leave.
_LEFTOVERS = ("index-*.faiss", "documents-*.jsonl", "places-*.npy", "manifest-*.tmp", lock.NAME)


def index(
    paths: PathsArgument,
    *,
    store: StoreOption,
    embedding_model: ModelOption = None,
    device: DeviceOption = "auto",
    fallback: FallbackOption = "cpu",
    chunk_tokens: ChunkOption = None,
    overlap: OverlapOption = None,
    json: JsonOption = False,
) -> None:
    """Index documents; run it again to add, update and delete what changed.

    Files that cannot be read are listed at the end, and keep what the store has of them. What is
    gone from PATH is deleted from the store; what was indexed from elsewhere stays. If it is
    interrupted, the store is what it was when last saved: run it again to go on.

    Hidden files and folders, node_modules, __pycache__ and virtual environments are passed over.
    It fails (exit code 1) if no file can be read.
    """
    started = time.monotonic()
    with quiet_stdout(active=json):
        summary, found = _index(
            paths,
            store,
            models.Place(device, fallback),
            model=embedding_model,
            size=chunk_tokens,
            overlap=overlap,
        )
    if json:
        print_json(
            {
                "added": summary.added,
                "updated": summary.updated,
                "deleted": summary.deleted,
                "unchanged": summary.unchanged,
                "empty": summary.empty,
                "failed": [{"source": f.source, "error": f.error} for f in summary.failed],
            }
        )
    else:
        _show(summary, found, time.monotonic() - started)
    if summary.failed and not (summary.read or summary.deleted):
        raise typer.Exit(1)


def _index(
    paths: Sequence[Path],
    store: Path,
    place: models.Place,
    *,
    model: str | None,
    size: int | None,
    overlap: int | None,
) -> tuple[Summary, Found]:
    from langchain_gpu.cli.progress import IndexProgress
    from langchain_gpu.cli.stored_files import stored_under
    from langchain_gpu.cli.sync import Cut, sync
    from langchain_gpu.loaders import Chunker, find_files
    from langchain_gpu.vectorstores import FAISSVectorStore

    exists = _check(store)
    found = find_files(paths, exclude=[store])
    progress = IndexProgress(len(found.files), stderr())
    if model is None:
        model = (models.stored_model(store) if exists else None) or EMBEDDING_MODEL
    embeddings = models.make_embeddings(model, place, on_event=progress.on_event)
    # Nothing is searched here, so the index needs no GPU.
    vectors = (
        FAISSVectorStore.load_local(store, embeddings, device="cpu")
        if exists
        else FAISSVectorStore(embeddings, device="cpu")
    )
    if not found.files and not found.failed:
        raise ValueError(_nothing_in(paths, found, stored_under(vectors, paths)))

    def make_chunker() -> Chunker:
        chunker = Chunker(embeddings, size=size, overlap=overlap)
        # This is the first file that changed: in time to spare the work that could not be saved.
        _check_writable(store)
        return chunker

    with interrupt.explained("Interrupted. What was saved stays; run it again to go on."), progress:
        summary = sync(
            vectors,
            found,
            paths,
            cut=Cut(make_chunker, settings=f"{size} {overlap}"),
            save=lambda: _save(vectors, store),
            watcher=progress,
        )
    if summary.chunks:
        device = embeddings.devices[0]
        say(f"{plural(summary.chunks, 'chunk')} embedded on {device}: {device.reason}", "dim")
    return summary, found


def _save(vectors: FAISSVectorStore, store: Path) -> None:
    """Save, unless another process has saved there since: what it indexed would be lost."""
    try:
        vectors.save_local(store, overwrite=False)
    except StoreChangedError as error:
        raise StoreChangedError(
            f"another process has saved to {store} meanwhile; run it again to add to that"
        ) from error


def _check(store: Path) -> bool:
    """Say whether the store exists; keep a mistyped --store from mixing it with other files."""
    if models.is_store(store):
        return True
    if store.exists() and not store.is_dir():
        raise ValueError(f"--store {store} is a file; name a folder")
    if store.is_dir():
        for path in store.iterdir():
            if not any(fnmatch(path.name, pattern) for pattern in _LEFTOVERS):
                raise ValueError(
                    f"--store {store} holds {path.name} and no store; name a new folder"
                )
    return False


def _check_writable(store: Path) -> None:
    try:
        store.mkdir(parents=True, exist_ok=True)
        if not os.access(store, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(f"--store {store} cannot be written: {error.strerror}") from error


def _nothing_in(paths: Sequence[Path], found: Found, stored: int) -> str:
    where = ", ".join(map(str, paths))
    others = f" ({sum(found.left_out.values())} files of other types)" if found.left_out else ""
    kept = (
        f"; the store keeps {plural(stored, 'document')} from there, as an empty folder may be a "
        "drive that is not mounted (delete the store if it is not)"
        if stored
        else ""
    )
    return f"nothing to index in {where}{others}{kept}"


def _show(summary: Summary, found: Found, seconds: float) -> None:
    rate = summary.indexed / seconds if seconds else 0.0
    stdout().print(
        f"{summary.added:,} added, {summary.updated:,} updated, {summary.deleted:,} deleted, "
        f"{summary.unchanged:,} unchanged"
        + (f" ({rate:,.1f} documents/s)" if summary.indexed else ""),
        soft_wrap=True,
    )
    if summary.empty:
        say(f"{plural(summary.empty, 'file')} without text passed over", "dim")
    if found.left_out:
        kinds = sorted(found.left_out.items(), key=lambda item: (-item[1], item[0]))
        named = ", ".join(f"{count:,} {kind}" for kind, count in kinds[:NAMED])
        total = plural(sum(found.left_out.values()), "file")
        more = ", ..." if len(kinds) > NAMED else ""
        say(f"{total} of other types passed over: {named}{more}", "dim")
    if summary.guessed:
        say(f"{plural(len(summary.guessed), 'file')} not in UTF-8, read as cp1252:", "yellow")
        for source in summary.guessed:
            say(f"  {shown_path(source)}")
    if summary.failed:
        say(f"{len(summary.failed):,} could not be read:", "red")
        for failure in summary.failed:
            say(f"  {shown_path(failure.source)}: {failure.error}")
