"""The layers of the package: a module imports its own package and the layers below it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "langchain_gpu"

# From the lowest up. Packages of one layer do not import each other, but for the highest.
LAYERS = [
    {"events", "utils"},
    {"hardware", "models"},
    {"planner"},
    {"llama", "servers", "torch_models"},
    {"engine", "generators", "search", "store"},
    {"encoder_models", "language_models"},
    {"embeddings", "rerank", "chat_models", "llms", "vectorstores"},
    {"rag", "loaders"},
    {"cli", "demo", "doctor", "verify", "__init__", "__main__"},
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
FACES = 5  # from this layer up, langchain_core may be imported
TOP = len(LAYERS) - 1
BANNED = {"langchain", "langchain_classic", "langchain_community"}

FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute dotted names of every import in the file, lazy ones too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == "langchain_gpu":
                found |= {f"langchain_gpu.{alias.name}" for alias in node.names}
    return found


def package_of(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    layer = LAYER_OF[here]  # a KeyError here: give the new package a layer
    for name in imports(path):
        top = name.partition(".")[0]
        assert top not in BANNED, f"{here} imports {name}"
        if top == "langchain_core":
            assert layer >= FACES, f"{here} is under the faces and imports {name}"
        if top != "langchain_gpu" or name == "langchain_gpu.__version__":
            continue
        there = package_of(name)
        if there in {here, "__init__"} or here == "__init__":
            continue
        below = LAYER_OF[there] < layer or (layer == TOP == LAYER_OF[there])
        assert below, f"{here} (layer {layer}) imports {name}"


def test_no_package_is_in_two_layers() -> None:
    assert sum(len(packages) for packages in LAYERS) == len(LAYER_OF)


def test_third_party_imports_of_the_lower_layers_are_lazy_or_base() -> None:
    """A module under the faces imports numpy at most, unless it is a back end's own file."""
    back_ends = {
        "engine/runtimes",
        "engine/remote",
        "servers/http.py",
        "servers/ollama.py",
        "servers/openai.py",
        "servers/triton.py",
        "servers/triton_tensors.py",
        "engine/llama_cpp_model.py",
        "generators/grammar.py",
        "generators/hf_forward.py",
        "generators/hf_load.py",
        "generators/hf_placement.py",
        "generators/hf_model.py",
        "generators/hf_template.py",
        "generators/llama_cpp.py",
        "generators/llama_load.py",
        "generators/sampling.py",
        "generators/transformers.py",
        "generators/triton_template.py",
        "search/faiss_cpu.py",
        "search/faiss_gpu.py",
        "search/torch_flat.py",
        "llama/parameters.py",
        "llama/server.py",
        "torch_models",
    }
    allowed = set(sys.stdlib_module_names) | {"langchain_gpu", "numpy"}
    for path in FILES:
        relative = path.relative_to(PACKAGE).as_posix()
        if LAYER_OF[relative.split("/")[0].removesuffix(".py")] >= FACES:
            continue
        if any(relative.startswith(name) for name in back_ends):
            continue
        for node in ast.parse(path.read_text()).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert name.partition(".")[0] in allowed, f"{relative} imports {name} at its top"
