"""Formatting of figures, for terminals and bug reports alike."""

from __future__ import annotations

from typing import Any


def device_name(device: dict[str, Any]) -> str:
    """Return the short name users write, for example `cuda:0`."""
    index = device["index"]
    return str(device["kind"]) if index is None else f"{device['kind']}:{index}"


def device_facts(device: dict[str, Any]) -> list[str]:
    """Return what is known of a device: architecture, cores, memory."""
    arch = device["capability"]
    size, free = gib(device["memory_total"]), gib(device["memory_free"])
    facts = [
        f"compute capability {arch}" if device["kind"] == "cuda" and arch else arch,
        f"{device['cores']} cores" if device["cores"] else "",
        f"{size} ({free} free)" if size and free else size,
    ]
    return [fact for fact in facts if fact]


def proof_place(proof: dict[str, Any]) -> str:
    """Return what was tried and where, for example `matrix product on cuda:0`."""
    return f"{proof['name']} on {proof['device']}" if proof["device"] else str(proof["name"])


def proof_result(proof: dict[str, Any]) -> str:
    """Return what came of a proof, in a line."""
    if not proof["passed"]:
        return str(proof["what"])
    parts = [proof["dtype"]] if proof["dtype"] else []
    if proof["gflops"] is not None:
        parts.append(rate(proof["gflops"]))
    if proof["error"] is not None:
        parts.append(f"off by {proof['error']:.0e}")
    if not proof["error"] and proof["name"] == "FAISS search":
        parts.append("same rows as brute force")
    if proof["found"]:
        parts.append(", ".join(proof["found"]))
    return " · ".join(parts)


def rate(gflops: float) -> str:
    """Return a rate of floating-point operations with its unit, to three digits."""
    if gflops >= 1000:  # noqa: PLR2004
        return f"{gflops / 1000:.3g} TFLOP/s" if gflops < 1e6 else f"{gflops / 1000:,.0f} TFLOP/s"  # noqa: PLR2004
    return f"{gflops:.3g} GFLOP/s"


def gib(count: int | None) -> str:
    """Return bytes in GiB, nothing where they are unknown."""
    return "" if count is None else f"{count / 2**30:.1f} GiB"


def verdict(problems: list[dict[str, str]]) -> str:
    """Say in a line whether the hardware can be used."""
    bad = sum(problem["severity"] == "problem" for problem in problems)
    if bad == 0:
        return "Nothing keeps this hardware from being used."
    return f"{bad} {'problem keeps' if bad == 1 else 'problems keep'} hardware from being used."


__all__ = [
    "device_facts",
    "device_name",
    "gib",
    "proof_place",
    "proof_result",
    "rate",
    "verdict",
]
