"""Load a GGUF file and exit, with llama.cpp's log on stderr. Run as a module, with JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xllamacpp

from langchain_gpu.generators.placement import place_layers
from langchain_gpu.hardware.cpu import process_memory
from langchain_gpu.hardware.devices import select_device
from langchain_gpu.llama.server import LlamaServer
from langchain_gpu.llama.settings import LlamaSettings

_TALKATIVE = 4


def settings_of(asked: Mapping[str, Any], infos: Sequence[Mapping[str, Any]]) -> LlamaSettings:
    """Return the settings that load a file as it was planned.

    Args:
        asked: As `verify.llama.what_to_load` says it.
        infos: llama.cpp's devices.

    Raises:
        RuntimeError: llama.cpp does not see the GPU of the plan: nothing else is measured instead.
    """
    place = place_layers(asked["device"], infos)
    if place.problem is not None:
        raise RuntimeError(f"the plan is for {asked['device']}: {place.problem}")
    return LlamaSettings(
        path=Path(asked["path"]),
        n_ctx=asked["n_ctx"],
        n_parallel=asked["n_parallel"],
        n_gpu_layers=asked["n_gpu_layers"],
        main_gpu=place.main_gpu,
        tensor_split=tuple(asked["tensor_split"]),
        n_threads=None,
        cores=select_device("cpu").cores or 1,
        verbosity=_TALKATIVE,
        fit=False,  # llama.cpp would change the numbers that are to be checked
        **{name: asked[name] for name in ("cache_dtype", "ubatch", "embedding") if name in asked},
    )


def main() -> None:
    """Load what the first argument describes, and print how much the process grew."""
    asked = json.loads(sys.argv[1])
    settings = settings_of(asked, xllamacpp.get_device_info())
    before = process_memory()
    server = LlamaServer(settings)
    server.tokenize("one question", special=True)
    sys.stdout.write(json.dumps({"rss": process_memory() - before}) + "\n")


if __name__ == "__main__":
    main()
