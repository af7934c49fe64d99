"""The files of a model, local or on the hub: their sizes and headers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from langchain_gpu.models.info import HeaderError
from langchain_gpu.models.resolve import ModelNotFoundError
from langchain_gpu.utils.extras import is_installed

if TYPE_CHECKING:
    from huggingface_hub import HfFileSystem

_BLOCK_BYTES = 1 << 20
_MAX_FILES = 20_000


class ModelFiles(Protocol):
    """Where a model's files are.

    Attributes:
        where: The place as a noun, for errors and for `ModelInfo.source`.
        at_once: Files worth reading at the same time.
    """

    where: str
    at_once: int

    def sizes(self) -> Mapping[str, int]:
        """Return the files' names, relative and with `/`, and their bytes."""

    def open(self, name: str) -> Any:
        """Open a file for reading forward: a context manager that gives a binary file."""


class LocalFiles:
    """The files of a folder, and those one folder below: quantizations may stand in their own."""

    at_once = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = f"the folder {folder}"

    def sizes(self) -> dict[str, int]:
        """See `ModelFiles`; links are followed, as the hub's own cache is made of them."""
        found: dict[str, int] = {}
        for pattern in ("*", "*/*"):
            for file in sorted(self._folder.glob(pattern)):
                if len(found) >= _MAX_FILES:
                    raise HeaderError(
                        f"{self.where} holds more than {_MAX_FILES:,} files: name the model's own"
                    )
                if file.is_file():
                    found[file.relative_to(self._folder).as_posix()] = file.stat().st_size
        return found

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """See `ModelFiles`."""
        try:
            file = (self._folder / name).open("rb")
        except FileNotFoundError as error:
            raise HeaderError(f"{name} is not in {self.where}") from error
        with file:
            yield file


class HubFiles:
    """The files of a repository on Hugging Face's hub; of each only what is asked for is fetched.

    Every request has huggingface_hub's own time-out (`HF_HUB_DOWNLOAD_TIMEOUT`).
    """

    at_once = 8

    def __init__(self, repo: str, *, revision: str | None, token: str | bool | None) -> None:
        if not is_installed("huggingface_hub"):
            raise ModelNotFoundError(
                f"hub {repo}: huggingface_hub is missing (pip install huggingface-hub)"
            )
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils._validators import validate_repo_id

        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ModelNotFoundError(
                f"{repo!r} is neither a local path nor a hub name; the hub's names are "
                f"namespace/name"
            ) from error
        self._repo = repo
        self._revision = revision
        self._token = token
        self._opened: HfFileSystem | None = None
        self._paths: dict[str, str] = {}
        self.where = f"the hub's {repo}" + (f" at {revision}" if revision else "")

    def sizes(self) -> dict[str, int]:
        """See `ModelFiles`.

        Raises:
            ModelNotFoundError: There is no such repository or revision, it is closed to this token,
                or the hub cannot be reached.
        """
        with self._errors():
            listed = self._system().find(self._repo, detail=True, revision=self._revision)
            if not isinstance(listed, dict) or len(listed) > _MAX_FILES:
                raise HeaderError(f"{self.where} holds more than {_MAX_FILES:,} files")
            # Where a revision is named, the paths hold it: org/name@revision/file.
            parts = self._repo.count("/") + 1
            self._paths = {path.split("/", parts)[-1]: path for path in listed}
            sizes = {name: listed[path].get("size") for name, path in self._paths.items()}
        return {name: size for name, size in sizes.items() if isinstance(size, int)}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """See `ModelFiles`.

        Raises:
            ModelNotFoundError: The file is not there, or cannot be fetched.
        """
        path = self._paths.get(name, f"{self._repo}/{name}")
        with self._errors():
            file: BinaryIO = self._system().open(
                path, "rb", block_size=_BLOCK_BYTES, revision=self._revision
            )
            with file:
                yield file

    def _system(self) -> HfFileSystem:
        if self._opened is None:
            from huggingface_hub import HfFileSystem

            # Not the instance that fsspec keeps for all: its listings may be old.
            self._opened = HfFileSystem(token=self._token, skip_instance_cache=True)
        return self._opened

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from httpx import HTTPError
        from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

        try:
            yield
        except (HeaderError, ModelNotFoundError):
            raise
        except (OSError, ValueError, NotImplementedError, HTTPError) as error:
            # The file system turns what the hub said into a FileNotFoundError.
            said = error.__cause__ if isinstance(error.__cause__, OSError) else error
            line = (str(error).strip().splitlines() or [""])[0][:200]
            if isinstance(said, OfflineModeIsEnabled):
                raise ModelNotFoundError(
                    f"{self.where} was not asked: HF_HUB_OFFLINE is set"
                ) from error
            if isinstance(said, GatedRepoError):
                line = f"ask for access at huggingface.co/{self._repo}, then pass token="
            raise ModelNotFoundError(
                f"{self.where} cannot be read: {type(said).__name__}: {line}"
            ) from error


__all__ = ["HubFiles", "LocalFiles", "ModelFiles"]
