"""What int8 costs in accuracy: measured at conversion, and stored beside the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from langchain_gpu.engine.backends import NotConvertibleError
from langchain_gpu.engine.encoder import Vectors
from langchain_gpu.engine.runtimes.likeness import cosines

# Below this it is more than rounding: neighbors change places.
LEAST_COSINE = 0.9
_FILE = "loss.json"


def check_embeds(task: str) -> None:
    """Refuse int8 for a reranker: what it costs a single score is not measured.

    Args:
        task: `EmbedderConfig.task`.

    Raises:
        NotConvertibleError: The task is not embedding.
    """
    if task != "embed":
        raise NotConvertibleError("dtype='int8' is for embedders; use 'auto' for a reranker")


@dataclass(frozen=True, slots=True)
class QuantizationLoss:
    """The accuracy that int8 costs, on texts that were not used for calibration.

    Attributes:
        least: The smallest cosine of a vector to its float32 form.
        mean: Their mean.
        texts: How many.
    """

    least: float
    mean: float
    texts: int

    @classmethod
    def of(cls, exact: Vectors, rounded: Vectors) -> QuantizationLoss:
        """Compare vectors of the same texts. Shapes (texts, dimension)."""
        found = cosines(exact, rounded)
        return cls(float(found.min()), float(found.mean()), len(found))

    def check(self) -> None:
        """Refuse a loss that is more than rounding, or that is none because a vector holds NaN.

        Raises:
            NotConvertibleError: int8 loses too much.
        """
        if not self.least >= LEAST_COSINE:
            raise NotConvertibleError(f"int8 loses too much of this model: {self}; use 'auto'")

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"cosine to float32 at least {self.least:.4f}, {self.mean:.4f} on average, "
            f"over {self.texts} texts"
        )

    def save(self, folder: Path) -> None:
        """Write it beside the model."""
        (folder / _FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> QuantizationLoss:
        """Read what `save` wrote."""
        return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))


__all__ = ["LEAST_COSINE", "QuantizationLoss", "check_embeds"]
