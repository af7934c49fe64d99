"""Write docs/settings.md: every setting of the classes, as the source describes it.

python docs/make_settings.py
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from langchain_gpu import GPULLM, ChatGPU, FAISSVectorStore, GPUEmbeddings, GPURerank

PAGE = Path(__file__).with_name("settings.md")
_INTRO = """\
# Every setting

Made from the source by `python docs/make_settings.py`. Settings are given by name when an object
is constructed. `help(GPUEmbeddings)` shows how the class is used, and so for the others.

"""


def page() -> str:
    """Return the page."""
    same = [name for name in _described(ChatGPU) if name in _described(GPULLM)]
    sections = [
        ("`GPUEmbeddings`", _table(GPUEmbeddings)),
        ("`GPURerank`", _table(GPURerank)),
        ("`ChatGPU` and `GPULLM`", _table(ChatGPU, same)),
        ("`FAISSVectorStore`", _arguments(FAISSVectorStore.__init__)),
    ]
    return _INTRO + "\n".join(f"## {title}\n\n{table}" for title, table in sections)


def _table(model: type[BaseModel], names: list[str] | None = None) -> str:
    said = _described(model)
    rows = [
        (
            name,
            _default(model.model_fields[name].get_default(call_default_factory=True)),
            said[name],
        )
        for name in names or said
    ]
    return _rows(rows)


def _rows(rows: list[tuple[str, str, str]]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | {default} | {text} |" for name, default, text in rows]
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    return "required" if value is PydanticUndefined else f"`{_quoted(value)}`"


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _described(model: type[BaseModel]) -> dict[str, str]:
    """Return what the source says below each field of our own, a class's bases first."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not base.__module__.startswith("langchain_gpu."):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)  # noqa: S101 - what getsource gives for a class
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ) if name in model.model_fields and name != "loaded":
                    found[name] = " ".join(said.split())
    return found


def _arguments(function: Any) -> str:
    """Return a function's arguments, as the section `Args` of its docstring describes them."""
    text = inspect.getdoc(function) or ""
    section = text.partition("Args:\n")[2].partition("\n\nRaises:")[0]
    said: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section).splitlines():
        if line.startswith(" "):
            said[name] += f" {line.strip()}"
        else:
            name, _, start = line.partition(": ")
            said[name] = start
    defaults = inspect.signature(function).parameters
    return _rows(
        [
            (name, "required" if given is inspect.Parameter.empty else _default(given), text)
            for name, text in said.items()
            for given in [defaults[name].default]
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
