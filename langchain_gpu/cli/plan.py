"""`langchain-gpu plan`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_gpu.cli.options import JsonOption
from langchain_gpu.cli.output import print_json, quiet_stdout, stdout

if TYPE_CHECKING:
    from langchain_gpu.hardware.devices import Device
    from langchain_gpu.models.info import ModelInfo
    from langchain_gpu.planner import Component, Index

_INDEX = re.compile(r"([\d_,]+)x(\d+)(?::(.+))?")
_ROLES = ("chat", "embed", "rerank")

ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL...",
        help="A .gguf file, a folder or a hub name. An encoder counts as an embedder; write "
        "rerank:MODEL, embed:MODEL or chat:MODEL to say otherwise.",
        show_default=False,
    ),
]
ContextOption = Annotated[
    int | None, typer.Option("--context", min=1, help="Tokens of one chat.", show_default=False)
]
ParallelOption = Annotated[
    int, typer.Option("--parallel", min=1, help="Chats at the same time, each with its context.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Load safetensors as: float32, bfloat16, int8, nf4.", show_default=False
    ),
]
CacheOption = Annotated[
    str, typer.Option("--cache-dtype", help="Type of the KV cache: float16, q8_0, q4_0.")
]
QuantizationOption = Annotated[
    str | None,
    typer.Option("--quantization", help="Which GGUF of a repository.", show_default=False),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--device-memory",
        metavar="SIZE,...",
        help="GPUs that are not here, for example 24GiB,24GiB; 0 for none.",
        show_default=False,
    ),
]
RamOption = Annotated[
    str | None,
    typer.Option("--ram", metavar="SIZE", help="Memory beside these GPUs.", show_default=False),
]
ReserveOption = Annotated[
    str | None,
    typer.Option(
        "--reserve",
        metavar="SIZE",
        help="Leave so much of every GPU alone; 5% if not given.",
        show_default=False,
    ),
]
IndexOption = Annotated[
    str | None,
    typer.Option(
        "--index",
        metavar="ROWSxDIM[:KIND]",
        help="A vector index beside the models, for example 1000000x384:flat.",
        show_default=False,
    ),
]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Load each model here, and compare with what it took.")
]
LargestOption = Annotated[
    bool, typer.Option("--largest", help="Say which GGUF quantizations would fit.")
]


def plan(
    models: ModelsArgument = None,
    *,
    context: ContextOption = None,
    parallel: ParallelOption = 1,
    dtype: DtypeOption = None,
    cache_dtype: CacheOption = "float16",
    quantization: QuantizationOption = None,
    index: IndexOption = None,
    device_memory: MemoryOption = None,
    ram: RamOption = None,
    reserve: ReserveOption = None,
    largest: LargestOption = False,
    verify: VerifyOption = False,
    json: JsonOption = False,
) -> None:
    """Say what fits where, in bytes, before any memory is touched.

    Only headers are read, of models on the hub too. Exits with 1 where something has no place.
    """
    from langchain_gpu.planner import Policy, parse_size
    from langchain_gpu.planner import plan as make_plan

    if not models and not index:
        raise typer.BadParameter("name a model, or --index ROWSxDIM", param_hint="MODEL")
    if verify and (device_memory is not None or index):
        raise typer.BadParameter("it measures models on this machine", param_hint="--verify")
    with quiet_stdout(active=json):
        settings = {"context": context, "sequences": parallel, "cache_dtype": cache_dtype}
        components = [_component(text, quantization, dtype, settings) for text in models or []]
        devices = _devices(device_memory, ram)
        policy = Policy(reserve=None if reserve is None else parse_size(reserve))
        everything = [*components, *([_index(index)] if index else [])]
        found = make_plan(everything, devices, policy)
        result: dict[str, Any] = found.as_dict()
        if largest:
            from langchain_gpu.cli.quantizations import quantizations

            result["quantizations"] = quantizations(everything, devices, policy)
        if verify:
            from langchain_gpu.verify import verify as measure

            result["verify"] = [
                measure(component, found[component.name]).as_dict() for component in components
            ]
    if json:
        print_json(result)
    else:
        from langchain_gpu.cli.plan_draw import draw

        stdout().print(draw(found, result))
    if not found.fits:
        raise typer.Exit(1)


def _component(
    text: str, quantization: str | None, dtype: str | None, chat: dict[str, Any]
) -> Component:
    from langchain_gpu.models.headers import read_info
    from langchain_gpu.planner import Chat, Encoder

    role, _, model = text.partition(":")
    if role not in _ROLES or not model:
        role, model = "", text
    info: ModelInfo = read_info(model, quantization=quantization)
    if role == "chat" or (not role and info.role == "decoder"):
        return Chat(info=info, name=model, dtype=dtype, **chat)
    return Encoder(
        info=info, role="reranker" if role == "rerank" else "embedder", name=model, dtype=dtype
    )


def _index(text: str) -> Index:
    from langchain_gpu.planner import Index
    from langchain_gpu.search.kinds.shapes import bytes_needed

    match = _INDEX.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r}: write 1000000x384 or 1000000x384:flat")
    rows, dimension = int(re.sub(r"[_,]", "", match[1])), int(match[2])
    kind = match[3] or "flat"
    return Index(
        kind=kind, rows=rows, dimension=dimension, bytes=bytes_needed(kind, rows, dimension)
    )


def _devices(memory: str | None, ram: str | None) -> list[Device] | None:
    from langchain_gpu.planner import imagined, parse_size

    if memory is None:
        if ram is not None:
            raise typer.BadParameter("it belongs to --device-memory", param_hint="--ram")
        return None
    sizes = [] if memory.strip() == "0" else [parse_size(text) for text in memory.split(",")]
    return imagined(sizes, None if ram is None else parse_size(ram))
