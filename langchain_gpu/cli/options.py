"""Options that several commands share, and the default models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langchain_gpu.events import Fallback

EMBEDDING_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
CHAT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def _check_device(device: str) -> str:
    """Refuse a mistyped device at once: no command may get as far as to load a model there."""
    from langchain_gpu.hardware.devices import check_name

    try:
        if device != "all":  # GPUs that share the work of an embedder
            check_name(device)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return device


DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", callback=_check_device, help="auto, cpu, cuda, cuda:1, rocm, xpu or mps."
    ),
]
FallbackOption = Annotated[
    Fallback,
    typer.Option("--fallback", help="What to do if the device is missing or too small."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="Folder of the store.")]
