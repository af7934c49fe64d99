"""Loads a GGUF file and ends; llama.cpp's messages go to stderr. Run as a module, with JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from langchain_gpu._llama import LlamaServer, LlamaSettings
from langchain_gpu.hardware.cpu import process_memory
from langchain_gpu.hardware.devices import select_device

_TALKATIVE = 4


def main() -> None:
    """Load what the first argument describes, and print how much the process grew."""
    asked = json.loads(sys.argv[1])
    before = process_memory()
    server = LlamaServer(
        LlamaSettings(
            path=Path(asked["path"]),
            n_ctx=asked["n_ctx"],
            n_parallel=asked["n_parallel"],
            n_gpu_layers=asked["n_gpu_layers"],
            main_gpu=0,
            n_threads=None,
            cores=select_device("cpu").cores or 1,
            cache_dtype=asked["cache"],
            ubatch=asked["ubatch"],
            verbosity=_TALKATIVE,
            fit=False,
        )
    )
    server.tokenize("one question", special=True)
    sys.stdout.write(json.dumps({"rss": process_memory() - before}) + "\n")


if __name__ == "__main__":
    main()
