"""`langchain-gpu doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from langchain_gpu.cli.options import JsonOption
from langchain_gpu.cli.output import print_json, quiet_stdout, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_gpu.doctor import Proof
    from langchain_gpu.doctor.proofs import Trial
    from langchain_gpu.hardware.facts import Facts

ProofOption = Annotated[
    bool,
    typer.Option("--proof/--no-proof", help="Let every device and library compute something."),
]
TimeoutOption = Annotated[
    float, typer.Option("--proof-timeout", min=1, metavar="SECONDS", help="For each proof.")
]
OllamaOption = Annotated[
    bool, typer.Option("--ollama/--no-ollama", help="Ask a local Ollama what it has loaded.")
]
ReportOption = Annotated[
    bool,
    typer.Option("--report", help="Print Markdown for a bug report, names and keys taken out."),
]


def doctor(
    *,
    proof: ProofOption = True,
    proof_timeout: TimeoutOption = 10.0,
    ollama: OllamaOption = True,
    report: ReportOption = False,
    json: JsonOption = False,
) -> None:
    """Show the devices with reasons, what is installed, and problems with their remedies.

    The exit status is 1 where a problem keeps hardware from being used. Advice does not count.
    """
    from langchain_gpu.doctor import redact, render
    from langchain_gpu.doctor import report as look
    from langchain_gpu.doctor.environment import read_environment
    from langchain_gpu.doctor.markdown import markdown
    from langchain_gpu.doctor.report import has_problems
    from langchain_gpu.hardware.facts import read_facts

    with quiet_stdout(active=json or report):
        facts = read_facts()
        environment = read_environment(ollama=ollama)
        proofs = _prove(facts, proof_timeout) if proof else []
        found = look(facts, proofs=proofs, environment=environment)
    shown = redact(found) if report else found
    if json:
        print_json(shown)
    elif report:
        sys.stdout.write(markdown(shown))
    else:
        stdout().print(render(shown))
    if has_problems(found):
        raise typer.Exit(1)


def _prove(facts: Facts, seconds: float) -> list[Proof]:
    """Run the proofs; where someone watches, say which ones run."""
    from langchain_gpu.doctor import prove

    with stderr().status("proofs") as status:

        def show(trials: Sequence[Trial]) -> None:
            status.update(f"{trials[0].name} {', '.join(trial.device for trial in trials)}")

        return prove(facts, seconds=seconds, on_start=show)
