"""Optional dependencies, and the one sentence that says how to install them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# What is not an extra of this package, as it comes in place of one: "onnx" with another wheel.
_OTHERS = {
    "onnx-migraphx": "pip install onnx onnxruntime-migraphx",
    "onnx-openvino": "pip install onnx onnxruntime-openvino",
}


def install_line(extra: str) -> str:
    """Return the exact pip line that brings `extra`."""
    return _OTHERS.get(extra, f'pip install "langchain-gpu[{extra}]"')


def is_installed(module: str) -> bool:
    """Say whether the top-level `module` can be found, without importing it."""
    return find_spec(module.partition(".")[0]) is not None


def require(module: str, *, extra: str) -> Any:
    """Import and return `module`.

    Args:
        module: Dotted name, for example `"faiss"`.
        extra: The extra of this package that brings it.

    Raises:
        ImportError: `module` is not installed; the message holds the pip line. An installed module
            that fails while it is being imported keeps its own error.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise missing(module, extra) from error


def check_installed(needs: Mapping[str, str]) -> None:
    """Say at once all that is not installed, so that one pip line brings it; imports nothing.

    Args:
        needs: Modules, each with the extra that brings it.

    Raises:
        ImportError: Some are not installed; `name` is the first of them.
    """
    lacking = {name: extra for name, extra in needs.items() if not is_installed(name)}
    if not lacking:
        return
    first, *others = lacking
    if not others:
        raise missing(first, lacking[first])
    named = ", ".join(f"`{name}`" for name in [first, *others[:-1]])
    raise ImportError(
        f"{named} and `{others[-1]}` are not installed. Install them with: "
        f"{_install_lines(dict.fromkeys(lacking.values()))}",
        name=first,
    )


def _install_lines(extras: Mapping[str, object]) -> str:
    own = [extra for extra in extras if extra not in _OTHERS]
    lines = [install_line(extra) for extra in extras if extra in _OTHERS]
    return " && ".join([*lines, install_line(",".join(own))] if own else lines)


def missing(module: str, extra: str) -> ImportError:
    """Build the error for a `module` that is not installed."""
    return ImportError(
        f"`{module}` is not installed. Install it with: {install_line(extra)}", name=module
    )


__all__ = ["check_installed", "install_line", "is_installed", "missing", "require"]
