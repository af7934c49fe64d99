"""The embedding model of a store: its name, and its vector of a fixed text.

By its name alone, a model folder that was moved would be refused, and another model in the same
folder accepted. So where the names differ or are paths, the vector of a fixed text decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langchain_gpu.store.errors import WrongModelError

PROBE = "The quick brown fox jumps over the lazy dog."
ALIKE = 0.99  # bfloat16 and int8 runs of one model stay above, other models far below


@dataclass(frozen=True, slots=True)
class Identity:
    """An embedding model, as a store remembers it.

    Attributes:
        model: Its name, None where the embedding has none.
        revision: Its revision, None where unknown.
        probe: Its vector of `text`.
        text: What was embedded.
    """

    model: str | None
    revision: str | None
    probe: tuple[float, ...]
    text: str = PROBE


def names(embedding: object) -> tuple[str | None, str | None]:
    """Return the model and the revision that an embedding object names."""
    model = _string(embedding, "model") or _string(embedding, "model_name")
    return model, _string(embedding, "revision")


def accept(
    stored: Identity, embedding: object, embed: Callable[[str], NDArray[np.float32]]
) -> None:
    """Refuse an `embedding` that is not the stored model.

    Args:
        stored: What the store remembers.
        embedding: The object that names a model.
        embed: Embeds a text with it; only called where the names do not decide.

    Raises:
        WrongModelError: It is another model.
    """
    model, revision = names(embedding)
    same_revision = None in {revision, stored.revision} or revision == stored.revision
    if model is not None and model == stored.model and same_revision and not _is_path(model):
        return
    ours, theirs = np.asarray(stored.probe, dtype=np.float32), embed(stored.text)
    if ours.shape != theirs.shape:
        why = f"its vectors have {theirs.size} dimensions, the stored ones {ours.size}"
    elif (likeness := _cosine(ours, theirs)) < ALIKE:
        why = f"for the same text its vector has cosine {likeness:.3f} to the stored one"
    else:
        return
    given = f"{model!r}" if model else f"the given {type(embedding).__name__}"
    raise WrongModelError(
        f"the store was built with {_called(stored)}, and {given} is another model: {why}; load it "
        "with the model it was built with, or build a new store"
    )


def _is_path(model: str) -> bool:
    return os.path.exists(os.path.expanduser(model))  # noqa: PTH110, PTH111 - never raises


def _called(stored: Identity) -> str:
    if stored.model is None:
        return "a model without a name"
    return repr(stored.model) + (f" at revision {stored.revision}" if stored.revision else "")


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else float(np.array_equal(left, right))


def _string(embedding: object, attribute: str) -> str | None:
    value = getattr(embedding, attribute, None)
    return value if isinstance(value, str) and value else None


__all__ = ["ALIKE", "PROBE", "Identity", "accept", "names"]
