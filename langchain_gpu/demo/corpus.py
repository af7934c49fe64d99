"""The documentation that lies on every machine with Python: docstrings and README texts.

Sources are parsed with `ast` and never imported.
"""

from __future__ import annotations

import ast
import itertools
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distributions, requires
from pathlib import Path

from langchain_core.documents import Document
from packaging.requirements import Requirement  # langchain-core brings it
from packaging.utils import canonicalize_name

# Tests are not documentation; site-packages lies inside the standard library's folder.
_SKIPPED = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "testing"}
)
_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(slots=True)
class Corpus:
    """What was collected.

    Attributes:
        documents: Each text once, with `source` (the qualified name), `file` and `line`.
        files: Python files that were parsed.
        skipped: Python files that are not valid in this version of Python.
    """

    documents: list[Document] = field(default_factory=list)
    files: int = 0
    skipped: int = 0


def collect(limit: int) -> Corpus:
    """Collect up to `limit` documents, the same on every run.

    The standard library comes first, then the README texts of all installed packages, then their
    docstrings: the packages this one is built on, and all others by name.
    """
    corpus = Corpus()
    seen: set[str] = set()
    standard = Path(sysconfig.get_path("stdlib"))
    installed = sorted(distributions(), key=lambda found: canonicalize_name(found.name))
    sources = itertools.chain(
        docstrings(_python_files(standard), standard, corpus),
        map(readme, installed),
        *(docstrings(_package_files(found), _root(found), corpus) for found in _by_use(installed)),
    )
    for document in sources:
        if document is None or document.page_content in seen:
            continue
        seen.add(document.page_content)
        corpus.documents.append(document)
        if len(corpus.documents) >= limit:
            break
    return corpus


def docstrings(files: Iterable[Path], root: Path, corpus: Corpus) -> Iterator[Document]:
    """Yield the docstrings of modules, classes and functions, with their signatures.

    Args:
        files: Python files below `root`.
        root: The folder that imports start from.
        corpus: Counts the files.
    """
    for path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other people's invalid escape sequences
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, OSError):
            corpus.skipped += 1
            continue
        corpus.files += 1
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield from _documented(tree, name, path.relative_to(root))


def readme(found: Distribution) -> Document | None:
    """Return the README text of an installed package, or None."""
    text = str(found.metadata.json.get("description", "")).strip()
    if not text:
        return None
    source = f"README of {found.name} {found.version}"
    return Document(f"{found.name}\n\n{text}", metadata={"source": source})


def _documented(node: ast.AST, name: str, file: Path) -> Iterator[Document]:
    """Walk what can be reached by a public name, outermost first."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            title = name if isinstance(node, ast.Module) else f"{name}{_signature(node)}"
            metadata = {"source": name, "file": file.as_posix(), "line": getattr(node, "lineno", 1)}
            yield Document(f"{title}\n\n{text}", metadata=metadata)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _NAMED):
            if not child.name.startswith("_"):
                yield from _documented(child, f"{name}.{child.name}", file)
        elif isinstance(child, ast.If | ast.Try):
            yield from _documented(child, name, file)


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return f"({ast.unparse(node.args)})"
    return ""


def _python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED.intersection(path.relative_to(root).parts):
            yield path


def _package_files(found: Distribution) -> Iterator[Path]:
    for file in sorted(found.files or ()):
        if (
            file.suffix == ".py"
            and not _SKIPPED.intersection(file.parts)
            and ".." not in file.parts
        ):
            path = Path(str(file.locate()))
            if path.is_file():
                yield path


def _root(found: Distribution) -> Path:
    return Path(str(found.locate_file("")))


def _by_use(installed: list[Distribution]) -> list[Distribution]:
    """Put the packages this one requires first."""
    try:
        wanted = requires("langchain-gpu") or []
    except PackageNotFoundError:  # a source tree that was never installed
        wanted = []
    order = {canonicalize_name(Requirement(text).name): i for i, text in enumerate(wanted)}
    return sorted(installed, key=lambda f: order.get(canonicalize_name(f.name), len(order)))
