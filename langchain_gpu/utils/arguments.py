"""Arguments of other classes that ours have under another name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def check_arguments(
    owner: str, given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]
) -> None:
    """Say what to write in place of an argument that a class does not have, if that is known.

    Args:
        owner: Name of the class.
        given: Names of the arguments of a call.
        known: Names that the class has.
        elsewhere: What to write for names of other classes.

    Raises:
        ValueError: An argument is unknown, and there is another name for it, or one like it.
    """
    names = sorted(known)
    for name in given:
        if name in names:
            continue
        close = [f"{like}=..." for like in get_close_matches(name, names, n=1, cutoff=0.75)]
        for instead in [elsewhere[name]] if name in elsewhere else close:
            raise ValueError(f"{owner} has no {name!r}: say {instead}")


__all__ = ["check_arguments"]
