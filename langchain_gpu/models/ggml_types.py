"""The tensor types of GGUF files: how many numbers a block holds, in how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class GgmlType(NamedTuple):
    """A way to store numbers.

    Attributes:
        name: As llama.cpp spells it, for example `"Q4_K"`.
        block: Numbers that are stored together.
        bytes: What such a block takes.
    """

    name: str
    block: int
    bytes: int

    @property
    def bits(self) -> float:
        """Bits of one number, with its part of the block's scales."""
        return 8 * self.bytes / self.block


# By the number that stands in the file. The numbers left out were types of 2023 and 2024 that
# llama.cpp has withdrawn.
GGML_TYPES: Mapping[int, GgmlType] = {
    0: GgmlType("F32", 1, 4),
    1: GgmlType("F16", 1, 2),
    2: GgmlType("Q4_0", 32, 18),
    3: GgmlType("Q4_1", 32, 20),
    6: GgmlType("Q5_0", 32, 22),
    7: GgmlType("Q5_1", 32, 24),
    8: GgmlType("Q8_0", 32, 34),
    9: GgmlType("Q8_1", 32, 40),
    10: GgmlType("Q2_K", 256, 84),
    11: GgmlType("Q3_K", 256, 110),
    12: GgmlType("Q4_K", 256, 144),
    13: GgmlType("Q5_K", 256, 176),
    14: GgmlType("Q6_K", 256, 210),
    15: GgmlType("Q8_K", 256, 292),
    16: GgmlType("IQ2_XXS", 256, 66),
    17: GgmlType("IQ2_XS", 256, 74),
    18: GgmlType("IQ3_XXS", 256, 98),
    19: GgmlType("IQ1_S", 256, 50),
    20: GgmlType("IQ4_NL", 32, 18),
    21: GgmlType("IQ3_S", 256, 110),
    22: GgmlType("IQ2_S", 256, 82),
    23: GgmlType("IQ4_XS", 256, 136),
    24: GgmlType("I8", 1, 1),
    25: GgmlType("I16", 1, 2),
    26: GgmlType("I32", 1, 4),
    27: GgmlType("I64", 1, 8),
    28: GgmlType("F64", 1, 8),
    29: GgmlType("IQ1_M", 256, 56),
    30: GgmlType("BF16", 1, 2),
    34: GgmlType("TQ1_0", 256, 54),
    35: GgmlType("TQ2_0", 256, 66),
    39: GgmlType("MXFP4", 32, 17),
    40: GgmlType("NVFP4", 64, 36),
    41: GgmlType("Q1_0", 128, 18),
}

_BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}
CACHE_TYPES: Mapping[str, GgmlType] = {
    "float32": _BY_NAME["F32"],
    "float16": _BY_NAME["F16"],
    "bfloat16": _BY_NAME["BF16"],
    "q8_0": _BY_NAME["Q8_0"],
    "q5_1": _BY_NAME["Q5_1"],
    "q5_0": _BY_NAME["Q5_0"],
    "q4_1": _BY_NAME["Q4_1"],
    "q4_0": _BY_NAME["Q4_0"],
    "iq4_nl": _BY_NAME["IQ4_NL"],
}
"""llama.cpp's types of a KV cache, by the names used here."""

# What `general.file_type` says of the whole file.
FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}

__all__ = ["CACHE_TYPES", "FILE_TYPES", "GGML_TYPES", "GgmlType"]
