"""Real data and models that lie beside the checkout; every test that needs them skips without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: LANGCHAIN_GPU_SHARED, or `shared` beside the checkout."""
    default = Path(__file__).parents[3] / "shared"
    folder = Path(os.environ.get("LANGCHAIN_GPU_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data in {folder}; set LANGCHAIN_GPU_SHARED")
    return folder
