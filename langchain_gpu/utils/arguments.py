"""Errors for arguments that a class or function does not have, with what to write instead."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

_ALIKE = 0.75  # of 1: names that differ by a slip
_NO_OTHER = ("leave", "set")  # how a remedy begins that is not another argument


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
        elsewhere: What to write for names that other classes have, or what else to do.

    Raises:
        ValueError: An argument is unknown, and there is another name for it, or one like it.
    """
    names = sorted(known)
    for name in given:
        if name in names:
            continue
        instead = elsewhere.get(name)
        if instead is None and (close := get_close_matches(name, names, n=1, cutoff=_ALIKE)):
            instead = f"{close[0]}=..."
        if instead is not None:
            remedy = instead if instead.startswith(_NO_OTHER) else f"say {instead}"
            raise ValueError(unknown_argument(owner, name, remedy))


def check_backend(
    owner: str, given: object, known: Collection[str], elsewhere: Mapping[str, str]
) -> None:
    """Say what to write in place of a back end that a class does not have, if that is known.

    A value for which nothing is known is left to the class, which refuses it.

    Args:
        owner: Name of the class.
        given: The value of `backend`.
        known: The values that the class has.
        elsewhere: What to write for other names of back ends, in lower case.

    Raises:
        ValueError: The value is unknown, and there is another one for it, or one like it.
    """
    if not isinstance(given, str) or given in known:
        return
    name = given.lower()
    instead = elsewhere.get(name)
    if instead is None and (close := get_close_matches(name, known, n=1, cutoff=_ALIKE)):
        instead = f"backend={close[0]!r}"
    if instead is not None:
        raise ValueError(f"{owner} has no backend {given!r}: say {instead}")


__all__ = ["check_arguments", "check_backend", "unknown_argument"]
