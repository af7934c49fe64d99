"""All commands, and what happens when one fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from langchain_gpu import __version__
from langchain_gpu.cli.ask import ask
from langchain_gpu.cli.doctor import doctor
from langchain_gpu.cli.import_faiss import import_faiss
from langchain_gpu.cli.index import index
from langchain_gpu.cli.output import quiet_libraries, show_error
from langchain_gpu.cli.plan import plan
from langchain_gpu.demo.command import demo

app = typer.Typer(
    name="langchain-gpu",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in words:
        app([word for word in words if word != "--debug"])  # wherever it stands
    try:
        with quiet_libraries():
            app(words)
    except Exception as error:  # noqa: BLE001 - people want the message, --debug the traceback
        show_error(error)
        sys.exit(1)


def _show_version(value: bool) -> None:  # noqa: FBT001 - typer passes it so
    if value:
        sys.stdout.write(f"langchain-gpu {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and other libraries' warnings.")
    ] = False,
) -> None:
    """Ask your own documents, on the device you own."""


app.command(short_help="Show devices, what is installed, and what is wrong.")(doctor)
app.command(short_help="Say what fits where, before any memory is touched.")(plan)
app.command(short_help="Index documents; run it again to update.")(index)
app.command(short_help="Answer a question from a store, with sources.")(ask)
app.command("import-faiss", short_help="Move a store of langchain-community in.")(import_faiss)
app.command(short_help="Try it all on the documentation of this machine.")(demo)
