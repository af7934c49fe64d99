"""What importing the package costs, what it offers, and what it says when something is missing."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest

import langchain_gpu
from langchain_gpu.utils import extras

HEAVY = ("torch", "transformers", "sentence_transformers", "faiss", "xllamacpp", "openvino", "onnx")


LANGCHAIN = "import langchain_core.language_models, langchain_core.vectorstores"


def python(code: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def heavy_imports(code: str) -> set[str]:
    found = python(f"{code}\nimport sys; print(*(m for m in {HEAVY} if m in sys.modules))")
    return set(found.split())


@cache
def imported_by_langchain() -> set[str]:
    """What langchain-core imports by itself: before 1.6 that is transformers."""
    return heavy_imports(LANGCHAIN)


@pytest.mark.parametrize(
    "code",
    [
        "import langchain_gpu",
        *(f"from langchain_gpu import {name}" for name in langchain_gpu.__all__),
    ],
)
def test_imports_stay_light(code: str) -> None:
    assert heavy_imports(code) <= imported_by_langchain()


def test_the_newest_langchain_imports_nothing_heavy() -> None:
    if tuple(map(int, version("langchain-core").split(".")[:2])) < (1, 6):
        pytest.skip("langchain-core before 1.6 imports transformers with every chat model")
    assert imported_by_langchain() == set()


def test_importing_prints_nothing_and_sets_no_handlers() -> None:
    code = "import langchain_gpu, logging; print(logging.getLogger().handlers)"
    assert python(code) == "[]"


def test_all_is_what_is_promised() -> None:
    assert set(langchain_gpu.__all__) == {
        "ChatGPU",
        "Device",
        "FAISSRetriever",
        "FAISSVectorStore",
        "GPUEmbeddings",
        "GPULLM",
        "GPURerank",
        "__version__",
        "create_rag_chain",
        "create_reranking_retriever",
        "list_devices",
        "select_device",
    }
    for name in langchain_gpu.__all__:
        assert getattr(langchain_gpu, name) is not None
    assert dir(langchain_gpu) == sorted(langchain_gpu.__all__)


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "langchain_gpu", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"langchain-gpu {langchain_gpu.__version__}\n"


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'GPUMagic'"):
        _ = langchain_gpu.GPUMagic


def test_the_version_is_the_packages() -> None:
    assert langchain_gpu.__version__ == version("langchain-gpu")


def test_the_base_is_light() -> None:
    base = [line for line in requires("langchain-gpu") or [] if "extra ==" not in line]
    assert sorted(line.split(">")[0].split("<")[0] for line in base) == ["langchain-core", "numpy"]


def test_the_extras() -> None:
    extras = set(metadata("langchain-gpu").get_all("Provides-Extra") or [])
    promised = {"local", "faiss", "faiss-gpu", "faiss-gpu-cuvs", "llama-cpp", "openvino", "cli"}
    promised |= {"onnx", "onnx-gpu", "openvino-int8", "remote", "openai", "ollama", "triton"}
    promised |= {"local-gguf", "grammar"}
    assert extras == promised


def test_a_missing_extra_names_the_pip_line() -> None:
    with pytest.raises(ImportError, match=r'pip install "langchain-gpu\[magic\]"') as caught:
        extras.require("surely_not_installed.part", extra="magic")
    assert caught.value.name == "surely_not_installed.part"


def test_an_installed_module_that_breaks_keeps_its_own_error(tmp_path: object) -> None:
    folder = str(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {folder!r})\n"
        f"open({folder!r} + '/broken_module.py', 'w').write('import not_there_at_all')\n"
        "from langchain_gpu.utils.extras import require\n"
        "try:\n    require('broken_module', extra='x')\n"
        "except ImportError as error:\n    print(error)"
    )
    assert python(code) == "No module named 'not_there_at_all'"


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("torch", "GPUEmbeddings(model='.').embed_query('a')", "local"),
        ("sentence_transformers", "GPUEmbeddings(model='.').embed_query('a')", "local"),
    ],
)
def test_each_face_says_what_it_misses(
    module: str, code: str, extra: str, tmp_path: object
) -> None:
    """Without the module, as on a machine where only the base is installed."""
    script = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); open('config.json', 'w').write('{{}}')\n"
        f"sys.modules[{module!r}] = None\n"
        "from langchain_gpu import GPUEmbeddings\n"
        f"try:\n    {code}\nexcept ImportError as error:\n    print(error)"
    )
    assert f'pip install "langchain-gpu[{extra}]"' in python(script)


LOCAL = ("torch", "sentence_transformers")


@pytest.mark.parametrize(
    ("modules", "code", "line"),
    [
        (("openvino", *LOCAL), "GPUEmbeddings(model='.', backend='openvino')", "openvino,local"),
        (
            ("openvino", "nncf", *LOCAL),
            "GPUEmbeddings(model='.', backend='openvino', dtype='int8')",
            "openvino-int8,local",
        ),
        (
            ("onnxruntime", "onnx", *LOCAL),
            "GPUEmbeddings(model='.', backend='onnx', device='cpu')",
            "onnx,local",
        ),
    ],
)
def test_one_line_brings_all_that_is_missing(
    modules: tuple[str, ...], code: str, line: str, tmp_path: object
) -> None:
    script = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); open('config.json', 'w').write('{{}}')\n"
        f"sys.modules.update(dict.fromkeys({modules!r}))\n"
        "from langchain_gpu import GPUEmbeddings\n"
        f"try:\n    {code}.embed_query('a')\nexcept ImportError as error:\n    print(error)"
    )
    said = python(script)
    assert f'Install them with: pip install "langchain-gpu[{line}]"' in said
    assert all(f"`{module}`" in said for module in modules)


def test_a_chat_of_a_gguf_file_on_transformers_misses_two_extras(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    modules = ("torch", "transformers", "accelerate", "gguf")
    said = python(
        f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
        "from langchain_gpu import ChatGPU\n"
        f"chat = ChatGPU(model={str(tmp_path / 'm.gguf')!r}, backend='transformers')\n"
        "try:\n    chat.invoke('a')\nexcept ImportError as error:\n    print(error)"
    )
    assert said.endswith('Install them with: pip install "langchain-gpu[local,local-gguf]"')


def test_a_wheel_of_others_has_a_line_of_its_own() -> None:
    needs = {"not_here": "onnx-migraphx", "nor_this": "local"}
    with pytest.raises(ImportError) as caught:
        extras.check_installed(needs)
    assert str(caught.value) == (
        "`not_here` and `nor_this` are not installed. Install them with: "
        'pip install onnx onnxruntime-migraphx && pip install "langchain-gpu[local]"'
    )
    with pytest.raises(ImportError, match="`not_here` is not installed. Install it with: pip"):
        extras.check_installed({"not_here": "onnx-migraphx", "json": "local"})
    extras.check_installed({"json": "local"})
