"""A report as Markdown, for a bug report, without any library."""

from __future__ import annotations

from typing import Any

from langchain_gpu.doctor.figures import (
    device_facts,
    device_name,
    proof_place,
    proof_result,
    verdict,
)
from langchain_gpu.doctor.needs import PACKAGE


def markdown(report: dict[str, Any]) -> str:
    """Write a `report`, which the caller has redacted, as Markdown."""
    lines = [
        f"### {PACKAGE} {report['version']}",
        "",
        f"Python {report['python']} on {report['platform']}",
        "",
        verdict(report["problems"]),
        "",
        *_table(
            ("device", "what it is", "computes in", "why"),
            [
                (
                    device_name(device),
                    " · ".join([device["name"], *device_facts(device), *device["isa"]]),
                    device["dtype"],
                    device["reason"],
                )
                for device in report["devices"]
            ],
        ),
    ]
    for problem in report["problems"]:
        lines.append(f"- **{problem['severity']}**: {_plain(problem['what'])}")
        lines.append(f"  - remedy: {_plain(problem['remedy'])}")
    if report["problems"]:
        lines.append("")
    if report["proofs"]:
        lines += _table(
            ("proof", "passed", "result", "seconds"),
            [
                (
                    proof_place(proof),
                    "yes" if proof["passed"] else "**no**",
                    proof_result(proof),
                    f"{proof['seconds']:.1f}",
                )
                for proof in report["proofs"]
            ],
        )
    versions = [f"{name} {found}" for name, found in report["versions"].items()]
    lines += ["<details><summary>versions</summary>", "", ", ".join(versions), "", "</details>"]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [*("| " + " | ".join(map(_cell, line)) + " |" for line in lines), ""]


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return text that Markdown neither breaks into lines nor takes for a tag."""
    return " ".join(text.split()).replace("<", "&lt;")


__all__ = ["markdown"]
