from __future__ import annotations

import pytest

from langchain_gpu.utils.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB"), "CUDA out of memory."),
        (RuntimeError("\n  it failed \n"), "it failed"),
        (MemoryError(), "MemoryError"),
        (RuntimeError(" \n"), "RuntimeError"),
    ],
)
def test_one_line_says_what_went_wrong(error: BaseException, line: str) -> None:
    assert first_line(error) == line
