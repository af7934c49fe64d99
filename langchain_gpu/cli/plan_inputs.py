"""The components and devices that `langchain-gpu plan` is asked for; bad input is named."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_gpu.hardware.devices import Device
    from langchain_gpu.models.info import ModelInfo
    from langchain_gpu.planner import Component, Index

_INDEX = re.compile(r"(\d[\d_,]{0,20})x(\d{1,9})(?::(.+))?", re.ASCII)
_LEAST = 1 << 20  # a smaller size of a memory lacks its unit
_ROLES = ("chat", "embed", "rerank")


def check_types(dtype: str | None, cache_dtype: str) -> None:
    """Refuse types that are not known.

    Raises:
        BadParameter: One is not; the message lists those that are.
    """
    from langchain_gpu.models.info import CACHE_BITS
    from langchain_gpu.planner.components import DTYPE_BYTES

    given = (("--dtype", dtype, DTYPE_BYTES), ("--cache-dtype", cache_dtype, CACHE_BITS))
    for option, value, known in given:
        if value is not None and value not in known:
            raise typer.BadParameter(
                f"{value!r} is not one of {', '.join(known)}", param_hint=option
            )


def check_dtype(dtype: str | None, components: Sequence[Component]) -> None:
    """Refuse a dtype that no model takes: beside a GGUF file it is for the others.

    Raises:
        BadParameter: There are only GGUF files.
    """
    if dtype is None or any(getattr(each, "dtype", None) for each in components):
        return
    raise typer.BadParameter(
        f"{dtype!r} is what safetensors are loaded as, and here are only GGUF files, whose weights "
        f"stay as they are: leave it out, or choose with --quantization",
        param_hint="--dtype",
    )


def _split(text: str) -> tuple[str, str]:
    """Return the role that stands in front of a model, if any, and the model."""
    role, _, model = text.partition(":")
    return (role, model) if role in _ROLES and model else ("", text)


def names(texts: list[str]) -> dict[str, str]:
    """Return what each component is called: the model, with its role where one has two.

    Raises:
        BadParameter: The same stands there twice.
    """
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise typer.BadParameter(
            f"{twice[0]} stands there twice; name it once, or once a role: embed:{twice[0]} "
            f"rerank:{twice[0]}",
            param_hint="MODEL",
        )
    models = [_split(text)[1] for text in texts]
    return {
        text: model if models.count(model) == 1 else text
        for text, model in zip(texts, models, strict=True)
    }


def component(
    text: str, name: str, quantization: str | None, dtype: str | None, chat: dict[str, Any]
) -> Component:
    """Describe a model by its headers, as what it is used for.

    Args:
        text: As it was given.
        name: What it is called in the plan.
        quantization: Which GGUF of a repository.
        dtype: What safetensors are loaded as; a GGUF file does not take it.
        chat: Further settings of a chat model.

    Raises:
        ModelNotFoundError: There is no such model.
        HeaderError: Its headers are damaged.
        ValueError: It cannot do what it is wanted for.
    """
    from langchain_gpu.models.headers import read_info
    from langchain_gpu.models.resolve import ModelNotFoundError
    from langchain_gpu.planner import Chat, Encoder
    from langchain_gpu.planner.gguf_encoder import WINDOW

    role, model = _split(text)
    try:
        info: ModelInfo = read_info(model, quantization=quantization)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(_in_one_line(str(error))) from error
    if info.format == "gguf":
        dtype = None  # `check_dtype` says so where no other model takes it
    if role == "chat" or (not role and info.role == "decoder"):
        return Chat(info=info, name=name, dtype=dtype, **chat)
    found = Encoder(
        info=info, role="reranker" if role == "rerank" else "embedder", name=name, dtype=dtype
    )
    # What llama.cpp is given to read where nobody asks for another window.
    return replace(found, max_length=WINDOW) if info.format == "gguf" else found


def _in_one_line(message: str) -> str:
    """Return why a model was not found, and each place once where it was looked for."""
    first, *rest = message.splitlines()
    tried = dict.fromkeys(line.removeprefix("  - ") for line in rest if line.startswith("  - "))
    return f"{first}; looked for on this machine: {'; '.join(tried)}" if tried else message


def index_of(text: str) -> Index:
    """Read `ROWSxDIM[:KIND]`.

    Raises:
        BadParameter: It is something else, or there is no such kind.
    """
    from langchain_gpu.planner import Index
    from langchain_gpu.search.base import TEMPORARY_BYTES
    from langchain_gpu.search.kinds.shapes import bytes_needed

    match = _INDEX.fullmatch(text)
    if match is None:
        raise typer.BadParameter(
            f"{text!r}: write 1000000x384 or 1000000x384:flat", param_hint="--index"
        )
    rows, dimension = int(re.sub(r"[_,]", "", match[1])), int(match[2])
    kind = match[3] or "flat"
    try:
        return Index(
            kind=kind,
            rows=rows,
            dimension=dimension,
            bytes=bytes_needed(kind, rows, dimension),
            temporary=TEMPORARY_BYTES,
        )
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint="--index") from error


def size_of(text: str, option: str, *, zero: bool = False) -> int:
    """Read a size that an option gives.

    Args:
        text: What was given.
        option: The option, for the error.
        zero: Whether `"0"` is a size too.

    Raises:
        BadParameter: It is not a size.
    """
    from langchain_gpu.planner import parse_size

    if zero and text.strip() == "0":
        return 0
    try:
        size = parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    if size < _LEAST:
        raise typer.BadParameter(
            f"{text.strip()!r} is {size:,} bytes; write {text.strip()}GiB", param_hint=option
        )
    return size


def devices(memory: str | None, ram: str | None) -> list[Device]:
    """Make up the machine that was asked for, or take this one, as free as it is now.

    Raises:
        BadParameter: A size is none, or RAM was named for no machine.
    """
    from langchain_gpu.hardware.devices import list_devices
    from langchain_gpu.planner import imagined

    if memory is None:
        if ram is not None:
            raise typer.BadParameter("it belongs to --device-memory", param_hint="--ram")
        return list_devices()
    sizes = []
    if memory.strip() != "0":
        sizes = [size_of(text, "--device-memory") for text in memory.split(",")]
    return imagined(sizes, None if ram is None else size_of(ram, "--ram"))
