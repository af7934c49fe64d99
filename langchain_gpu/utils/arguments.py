"""Errors for arguments that a class or function does not have, with what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def unknown_argument(owner: str, name: str, remedy: str = "") -> str:
    """Return the message for an unknown argument.

    Args:
        owner: What does not have it.
        name: Of the argument.
        remedy: What to do instead, if that is known.
    """
    message = f"{owner} does not know the argument {name!r}"
    return f"{message}: {remedy}" if remedy else message


def check_arguments(
    owner: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]
) -> None:
    """Say what to write in place of an argument that a class does not have, if that is known.

    An argument for which nothing is known is left to the class, which refuses it.

    Args:
        owner: Name of the class.
        given: Names of the arguments of a call.
        known: Names that the class has.
        elsewhere: What to write for names that other classes have.

    Raises:
        ValueError: An argument is unknown, and there is another name for it, or one like it.
    """
    names = sorted(known)
    for name in given:
        if name in names:
            continue
        instead = elsewhere.get(name)
        if instead is None and (close := get_close_matches(name, names, n=1, cutoff=0.75)):
            instead = f"{close[0]}=..."
        if instead is not None:
            raise ValueError(unknown_argument(owner, name, f"say {instead}"))


__all__ = ["check_arguments", "unknown_argument"]
