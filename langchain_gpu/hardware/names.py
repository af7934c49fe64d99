"""What a device or a dtype is called where the program was written for torch."""

from __future__ import annotations

from typing import Any


def as_names(device: Any) -> Any:
    """Return the name of a `torch.device`, or of each in a list.

    Anything else comes back as it is. Torch need not be imported to tell.

    Raises:
        ValueError: It is a number, as pipelines of transformers take one.
    """
    if isinstance(device, list | tuple):
        return [as_names(each) for each in device]
    if isinstance(device, int):
        name = "cpu" if device < 0 else f"cuda:{device}"
        message = f"a device is given by its name: {name!r} instead of {device!r}"
        raise ValueError(message)  # noqa: TRY004 - of pydantic's fields too, which want this one
    kind = type(device)
    return str(device) if (kind.__module__, kind.__name__) == ("torch", "device") else device


def as_dtype(dtype: Any) -> Any:
    """Return the name of a `torch.dtype`; anything else comes back as it is."""
    kind = type(dtype)
    is_torch = (kind.__module__, kind.__name__) == ("torch", "dtype")
    return str(dtype).removeprefix("torch.") if is_torch else dtype


def check_names(called: str, device: Any) -> None:
    """Refuse what is neither a name nor a list of names.

    Raises:
        TypeError: It is neither; the message begins with what the argument is `called`.
    """
    names = device if isinstance(device, list) else [device]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{called} must be a name, as 'cpu' or 'cuda:0', not {name!r}")


__all__ = ["as_dtype", "as_names", "check_names"]
