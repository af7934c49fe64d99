"""The packages that a quantized checkpoint needs, read from its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from langchain_gpu.utils.extras import is_installed

# What a checkpoint's own quantization needs: method, module, package.
_NEEDS = {
    "awq": ("gptqmodel", "gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "bitsandbytes_4bit": ("bitsandbytes", "bitsandbytes"),
    "bitsandbytes_8bit": ("bitsandbytes", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "compressed-tensors"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "hqq": ("hqq", "hqq"),
    "quanto": ("optimum", "optimum-quanto"),
    "torchao": ("torchao", "torchao"),
}


def check_quantization(folder: Path, name: str, asked: Any = None) -> None:
    """Check whether the library is installed that unpacks a model's weights.

    Args:
        folder: Holds the model's `config.json`; the weights need not be there yet.
        name: Of the model, for messages.
        asked: A quantization that is asked for beside the checkpoint's own.

    Raises:
        ImportError: It is not; the message holds the pip line.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    method = (config.get("quantization_config") or {}).get("quant_method")
    wanted = getattr(asked, "quant_method", None)
    for way in (method, getattr(wanted, "value", wanted)):
        module, package = _NEEDS.get(str(way), (None, None))
        if module is not None and not is_installed(module):
            raise ImportError(
                f"{name} is quantized with {way}, which needs {package}: pip install {package}",
                name=module,
            )


__all__ = ["check_quantization"]
