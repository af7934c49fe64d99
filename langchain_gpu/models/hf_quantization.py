"""How quantized weights of Hugging Face models are packed into tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_gpu.models.info import HeaderError

_MAX_BITS = 16
_SCALE_BITS = 16
_FP8_BLOCK = 128 * 128
_MXFP4_BLOCK = 32
# What lies beside packed weights to unpack them: no weights of the model.
_HELPERS = (
    "scales",
    "qzeros",
    "g_idx",
    "zeros",
    "weight_scale",
    "weight_scale_inv",
    "input_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "SCB",
    "weight_format",
    "absmax",
    "nested_absmax",
    "quant_map",
    "nested_quant_map",
    "bitsandbytes__nf4",
    "bitsandbytes__fp4",
)
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq")


@dataclass(frozen=True, slots=True)
class Quantization:
    """A way of packing.

    Attributes:
        method: `"gptq"`, `"awq"`, `"bitsandbytes"`, `"mxfp4"`, `"fp8"` or another name.
        bits: Of one weight, without scales; None where the configuration does not say.
        overhead: Bits of scales and zero points per weight.
        experts_only: Only the experts' weights are packed.
    """

    method: str
    bits: int | None
    overhead: float = 0.0
    experts_only: bool = False

    def __str__(self) -> str:
        return f"{self.method}-{self.bits}bit" if self.bits else self.method


def read_quantization(config: Mapping[str, Any], file: str) -> Quantization | None:
    """Read `quantization_config`, or return None where there is none.

    Raises:
        HeaderError: It is not an object, or its bits make no sense.
    """
    found = config.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise HeaderError(f"{file}: 'quantization_config' is not an object")
    method = str(found.get("quant_method") or ("bitsandbytes" if _bnb(found) else "unknown"))
    if method in {"gptq", "awq"}:
        bits = _number(found, file, "bits", "w_bit")
        group = _number(found, file, "group_size", "q_group_size", least=-1)
        per_weight = (_SCALE_BITS + bits) / group if group > 0 else 0.0
        return Quantization(method, bits, per_weight)
    if method.startswith("bitsandbytes"):
        four = found.get("load_in_4bit") is True
        absmax = 8 / 64 if found.get("bnb_4bit_use_double_quant") is True else 32 / 64
        return Quantization("bitsandbytes", 4 if four else 8, absmax if four else 0.0)
    if method == "mxfp4":
        return Quantization(method, 4, 8 / _MXFP4_BLOCK, experts_only=True)
    if method in {"fp8", "fbgemm_fp8"}:
        return Quantization(method, 8, 32 / _FP8_BLOCK)
    bits_found = found.get("bits")
    groups = found.get("config_groups")  # of compressed-tensors
    if isinstance(groups, Mapping):
        for group_found in groups.values():
            weights = group_found.get("weights") if isinstance(group_found, Mapping) else None
            if isinstance(weights, Mapping):
                bits_found = weights.get("num_bits")
    known = type(bits_found) is int and 0 < bits_found <= _MAX_BITS
    return Quantization(method, bits_found if known else None)


def stored_params(name: str, dtype: str, numbers: int, packing: Quantization | None) -> int:
    """Return how many weights of the model a tensor of a safetensors file stands for.

    Args:
        name: The tensor's name.
        dtype: The file's word for its type.
        numbers: What it holds of that type.
        packing: The configuration's.
    """
    last = name.rpartition(".")[2]
    if last in _BUFFERS:
        return 0
    if packing is None:
        return numbers
    if last in _HELPERS or last.endswith(("_scales", "_scale_inv")):
        return 0
    bits = packing.bits or 0
    if bits and dtype in {"I32", "U32"} and last in {"qweight", "weight_packed"}:
        return numbers * 32 // bits
    if dtype == "U8" and bits == 4:  # noqa: PLR2004 - two numbers in a byte
        return numbers * 2
    return numbers


def _bnb(found: Mapping[str, Any]) -> bool:
    return found.get("load_in_4bit") is True or found.get("load_in_8bit") is True


def _number(found: Mapping[str, Any], file: str, *names: str, least: int = 1) -> int:
    for name in names:
        value = found.get(name)
        if type(value) is int and least <= value <= 1 << 20:
            return value
        if value is not None:
            raise HeaderError(f"{file}: quantization_config.{name} is {str(value)[:80]!r}")
    raise HeaderError(f"{file}: quantization_config has no field {' or '.join(map(repr, names))}")


__all__ = ["Quantization", "read_quantization", "stored_params"]
