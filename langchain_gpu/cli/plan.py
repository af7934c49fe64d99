"""`langchain-gpu plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_gpu.cli.options import JsonOption
from langchain_gpu.cli.output import print_json, quiet_stdout, stdout
from langchain_gpu.cli.plan_inputs import (
    check_dtype,
    check_types,
    component,
    devices,
    index_of,
    names,
    size_of,
)

if TYPE_CHECKING:
    from langchain_gpu.planner import Component, Plan

ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
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
        "--dtype",
        help="Load safetensors as float32, bfloat16, float16, int8, float8 or nf4.",
        show_default=False,
    ),
]
CacheOption = Annotated[
    str,
    typer.Option(
        "--cache-dtype",
        help="Type of the KV cache: float32, float16, bfloat16, q8_0, q5_1, q5_0, q4_1, q4_0 or "
        "iq4_nl.",
    ),
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
        help="Leave so much of every GPU alone; if not given 5%, or a quarter of what is free.",
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
    from langchain_gpu.planner import Policy
    from langchain_gpu.planner import plan as make_plan

    if not models and not index:
        raise typer.BadParameter("name a model, or --index ROWSxDIM", param_hint="MODEL")
    if verify and (device_memory is not None or index):
        raise typer.BadParameter(
            "it loads models on this machine: leave out --device-memory and --index",
            param_hint="--verify",
        )
    check_types(dtype, cache_dtype)
    machine = devices(device_memory, ram)
    policy = Policy(reserve=None if reserve is None else size_of(reserve, "--reserve", zero=True))
    indexes = [index_of(index)] if index else []
    called = names(models or [])
    with quiet_stdout(active=json):
        settings = {"context": context, "sequences": parallel, "cache_dtype": cache_dtype}
        components = [
            component(text, name, quantization, dtype, settings) for text, name in called.items()
        ]
        check_dtype(dtype, components)
        everything = [*components, *indexes]
        found = make_plan(everything, machine, policy)
        result: dict[str, Any] = found.as_dict()
        if largest:
            from langchain_gpu.cli.quantizations import quantizations

            result["quantizations"] = quantizations(everything, machine, policy)
        if verify:
            result["verify"] = _verify(components, found)
    if json:
        print_json(result)
    else:
        from langchain_gpu.cli.plan_draw import draw

        stdout().print(draw(found, result))
    if not found.fits:
        raise typer.Exit(1)


def _verify(components: list[Component], found: Plan) -> dict[str, Any]:
    """Measure what has a place, and add it up."""
    from langchain_gpu.verify import verify as measure

    placed = [each for each in components if found[each.name].decision != "refused"]
    measured = [measure(each, found[each.name]) for each in placed]
    return {
        "components": [each.as_dict() for each in measured],
        "predicted_bytes": sum(each.predicted_bytes for each in measured),
        "measured_bytes": sum(each.measured_bytes for each in measured),
    }
