"""Weights that a model's files lack: transformers draws them at random, and only logs that."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger("transformers.modeling_utils")
_TITLE = "LOAD REPORT"
_SHOWN = 3


@contextmanager
def judged_here() -> Iterator[None]:
    """Keep transformers' table of weights out of the log, as the caller judges what it says.

    An error that leaves the block has the table as a note: transformers' own speak of "the report
    above".
    """
    tables: list[str] = []
    thread = threading.get_ident()  # others may load models whose tables nobody judges

    def is_other(record: logging.LogRecord) -> bool:
        if record.thread != thread or _TITLE not in (text := record.getMessage()):
            return True
        tables.append(text)
        return False

    _LOG.addFilter(is_other)
    try:
        yield
    except Exception as error:
        for table in tables:
            error.add_note(table)
        raise
    finally:
        _LOG.removeFilter(is_other)


def incomplete(where: object, kind: str, names: Collection[str]) -> str:
    """Say which weights of a `kind` of model the files in `where` lack.

    Args:
        where: Folder or file of the model.
        kind: Class of the model that was made of it.
        names: Of weights that are missing or of another shape.
    """
    shown = ", ".join(sorted(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return (
        f"{where} lacks {len(names)} of the weights of {kind}, or has them in another shape "
        f"({shown}), and random numbers would take their place: its files are incomplete or belong "
        "to another model; download it again"
    )


__all__ = ["incomplete", "judged_here"]
