"""`langchain-gpu import-faiss`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_gpu.cli import models
from langchain_gpu.cli.options import EMBEDDING_MODEL, DeviceOption, FallbackOption, JsonOption
from langchain_gpu.cli.output import plural, print_json, quiet_stdout, stdout

FolderArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", help="What FAISS.save_local of langchain-community was given."
    ),
]
StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="A new folder.")]
ModelOption = Annotated[
    str,
    typer.Option("--embedding-model", help="The model the store was built with: name or folder."),
]
NormalizeOption = Annotated[
    bool, typer.Option("--normalize-l2", help="The store was made with normalize_L2=True.")
]
NameOption = Annotated[
    str, typer.Option("--index-name", help="What save_local was given as index_name.")
]
CheckOption = Annotated[
    bool,
    typer.Option("--check-model/--no-check-model", help="Embed a few documents to compare with."),
]


def import_faiss(
    folder: FolderArgument,
    *,
    store: StoreOption,
    embedding_model: ModelOption = EMBEDDING_MODEL,
    normalize_l2: NormalizeOption = False,
    index_name: NameOption = "index",
    check_model: CheckOption = True,
    device: DeviceOption = "auto",
    fallback: FallbackOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Move a FAISS store of langchain-community in; its folder stays as it is.

    Nothing is embedded again but a few documents, to know the model. The pickle in the folder is
    read by a program that knows documents only, and runs nothing.
    """
    with quiet_stdout(active=json):
        from langchain_gpu.vectorstores import FAISSVectorStore

        if store.exists() and (not store.is_dir() or any(store.iterdir())):
            raise ValueError(f"--store {store} is not empty; name a new folder")
        embeddings = models.make_embeddings(embedding_model, models.Place(device, fallback))
        moved = FAISSVectorStore.from_community(
            folder,
            embeddings,
            normalize_L2=normalize_l2,
            index_name=index_name,
            check_model=check_model,
            device="cpu",
        )
        moved.save_local(store)
    if json:
        print_json({"documents": len(moved), "metric": moved.metric, "store": str(store)})
    else:
        stdout().print(
            f"{plural(len(moved), 'document')} moved to {store} (metric {moved.metric})",
            soft_wrap=True,
        )
