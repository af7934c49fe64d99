"""The command line `langchain-gpu`.

This file imports nothing that is optional, so that a missing extra is one line and no traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from langchain_gpu.cli import interrupt, pipe
from langchain_gpu.utils.extras import is_installed, missing

NEEDED = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The status is 0 when it is done, 1 failed, 2 wrong usage, 130 interrupted, and 141 where nobody
    reads the output any more.
    """
    for module in NEEDED:
        if not is_installed(module):
            sys.exit(f"langchain-gpu: {missing(module, 'cli')}")  # prints to stderr, exits with 1
    if arguments is None:  # the process is ours
        interrupt.end_soon()
    try:
        from langchain_gpu.cli.run import run

        with pipe.ends_quietly():
            run(arguments)
    except KeyboardInterrupt:  # while it imported; later ones end in `run`
        sys.exit(interrupt.STATUS)
