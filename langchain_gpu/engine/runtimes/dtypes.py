"""The dtypes that a model's own modules compute in."""

from __future__ import annotations

NAMES = ("float32", "float16", "bfloat16")


def check_dtype(dtype: str, task: str) -> None:
    """Refuse what is neither one of `NAMES` nor `"auto"`.

    Args:
        dtype: As the user wrote it.
        task: `EmbedderConfig.task`.

    Raises:
        ValueError: The message lists what is known.
    """
    if dtype in ("auto", *NAMES):
        return
    integers = dtype == "int8" and task == "embed"
    beside = "; backend='openvino' and 'onnx' compute it" if integers else ""
    raise ValueError(f"dtype {dtype!r} is not one of {', '.join(('auto', *NAMES))}{beside}")


__all__ = ["NAMES", "check_dtype"]
