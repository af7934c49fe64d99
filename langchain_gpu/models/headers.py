"""A model's weights, layers and caches in bytes, from headers alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from langchain_gpu.models.gguf import Head, parse_head
from langchain_gpu.models.gguf_info import describe_gguf
from langchain_gpu.models.hf_config import read_config
from langchain_gpu.models.hf_info import describe_config, describe_safetensors
from langchain_gpu.models.info import HeaderError, ModelInfo
from langchain_gpu.models.model_files import HubFiles, LocalFiles, ModelFiles
from langchain_gpu.models.resolve import PART, ModelNotFoundError, choose_gguf, is_gguf, resolve
from langchain_gpu.models.st_header import StTensor, parse_index, parse_json, parse_st_header

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_MAX_CONFIG = 10 << 20
_MAX_INDEX = 64 << 20
_TAG = re.compile(
    r"(?:UD-)?(?:I?Q\d(?:_[0-9A-Z]+)*|TQ\d_0|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32|FP16|FP32)"
    r"(?=[-_.]|$)",
    re.IGNORECASE,
)


def read_info(
    model: str | Path,
    *,
    quantization: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> ModelInfo:
    """Describe a model by its headers: a few megabytes are read at most, of the hub's files too.

    Args:
        model: A folder with `config.json` (and safetensors), a `.gguf` file (of several parts any),
            or a hub name, for GGUF also `"org/name:TAG"`. A name is looked for on this machine
            first.
        quantization: What the name of the GGUF file must hold, for example `"Q4_K_M"`. Given, a
            GGUF is wanted.
        revision: Branch, tag or commit on the hub.
        token: Hub token; never logged.

    Returns:
        The model; its `source` says where the headers came from.

    Raises:
        ModelNotFoundError: Nothing was found, or the hub cannot be read; the message says what was
            tried.
        HeaderError: A header is damaged, or lacks a field that is needed; the message names both.
        ChecksumError: An installed package carries altered weights.
    """
    name = str(model)
    path = Path(name).expanduser()
    if path.exists():
        return _read_path(name, path, quantization)
    repo, _, tag = name.partition(":")
    wanted = quantization or tag or None
    found, tried = _find_here(repo, wanted, revision=revision, token=token)
    if found is not None:
        return _read_path(name, found, wanted)
    hint = ""
    if "/" not in repo:
        hint = "; the hub's names are namespace/name"
        if wanted or is_gguf(repo):
            raise ModelNotFoundError(
                f"{name!r} is neither a local path nor a hub name{hint}\n{tried}"
            )
        repo = f"sentence-transformers/{repo}"  # as the classes read a bare name
    try:
        files = HubFiles(repo, revision=revision, token=token)
        return _read_files(name, files, files.sizes(), wanted)
    except ModelNotFoundError as error:
        hint = "" if hint in str(error) else hint
        raise ModelNotFoundError(f"{error}{hint}\nOn this machine: {tried}") from error


def list_quantizations(
    model: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> list[tuple[str, int]]:
    """List the GGUF models of a folder or of a hub repository, the smallest first.

    Args:
        model: A folder, a `.gguf` file, or a hub name; a name is asked of the hub.
        revision: Branch, tag or commit on the hub.
        token: Hub token; never logged.

    Returns:
        Tags such as `"Q4_K_M"` with the bytes of the file (of all its parts); a file without such a
        tag in its name, or with another's, stands with its name. `read_info` takes each of them as
        `quantization`.

    Raises:
        ModelNotFoundError: There is none, or the hub cannot be read.
    """
    path = Path(str(model)).expanduser()
    files: ModelFiles
    if path.exists():
        files = LocalFiles(path if path.is_dir() else path.parent)
    else:
        files = HubFiles(str(model).partition(":")[0], revision=revision, token=token)
    sums: Counter[str] = Counter()
    for file, size in files.sizes().items():
        if is_gguf(file) and (not path.is_file() or _whole(file) == _whole(path.name)):
            sums[_whole(file)] += size
    if not sums:
        raise ModelNotFoundError(f"{files.where} holds no .gguf models")
    tags = {file: _tag(file) for file in sums}
    named = list(tags.values())
    return sorted(
        (
            (tag if named.count(tag) == 1 else file[: -len(".gguf")], sums[file])
            for file, tag in tags.items()
        ),
        key=lambda item: (item[1], item[0]),
    )


def _find_here(
    repo: str, wanted: str | None, *, revision: str | None, token: str | bool | None
) -> tuple[Path | None, str]:
    tried = []
    for kind in ("safetensors", "gguf") if wanted is None else ("gguf",):
        name = f"{repo}:{wanted}" if wanted else repo
        try:
            found = resolve(
                name if kind == "gguf" else repo,
                kind="gguf" if kind == "gguf" else "safetensors",
                revision=revision,
                token=token,
                local_files_only=True,
            )
        except ModelNotFoundError as error:
            lines = str(error).splitlines()
            tried += [line for line in lines if not line.startswith("  - hub:")]
        else:
            return found.path, ""
    return None, "\n".join(tried)


def _read_path(name: str, path: Path, quantization: str | None) -> ModelInfo:
    if path.is_dir():
        files = LocalFiles(path)
        return _read_files(name, files, files.sizes(), quantization)
    if path.suffix.lower() != ".gguf":
        raise ModelNotFoundError(f"{path} is not a .gguf file; for safetensors name the folder")
    files = LocalFiles(path.parent)
    return _read_gguf(name, files, files.sizes(), path.name)


def _read_files(
    name: str, files: ModelFiles, sizes: Mapping[str, int], quantization: str | None
) -> ModelInfo:
    has_weights = any("/" not in file and file.endswith(".safetensors") for file in sizes)
    has_gguf = any(is_gguf(file) for file in sizes)
    if quantization is not None or (has_gguf and not (has_weights and _CONFIG in sizes)):
        return _read_gguf(name, files, sizes, choose_gguf(sizes, quantization or "")[0])
    if _CONFIG not in sizes:
        raise ModelNotFoundError(f"{files.where} holds no {_CONFIG} and no .gguf: not a model")
    config = read_config(parse_json(_small(files, sizes, _CONFIG, _MAX_CONFIG), name=_CONFIG))
    if not has_weights:
        source = f"{_CONFIG} of {files.where}, which has no safetensors: bytes are arithmetic"
        return describe_config(name, config, source=source)
    shards = _shards(files, sizes)
    tensors: dict[str, StTensor] = {}
    for found in _headers(files, sizes, shards):
        if twice := tensors.keys() & found.keys():
            raise HeaderError(f"{name}: {min(twice)!r} is in two of its weight files")
        tensors |= found
    return describe_safetensors(
        name,
        config,
        tensors,
        files={file: sizes[file] for file in shards},
        source=f"headers of {len(shards)} safetensors of {files.where}",
    )


def _shards(files: ModelFiles, sizes: Mapping[str, int]) -> list[str]:
    if _INDEX in sizes and _WEIGHTS not in sizes:
        shards = parse_index(_small(files, sizes, _INDEX, _MAX_INDEX), name=_INDEX)
        _require(files, sizes, shards)
        return shards
    if _WEIGHTS in sizes:
        return [_WEIGHTS]
    found = [file for file in sizes if "/" not in file and file.endswith(".safetensors")]
    if len(found) > 1:
        raise HeaderError(
            f"{files.where} holds {len(found)} safetensors and no {_INDEX} that says which belong "
            f"to the model"
        )
    return found


def _headers(
    files: ModelFiles, sizes: Mapping[str, int], shards: Iterable[str]
) -> list[dict[str, StTensor]]:
    def read(shard: str) -> dict[str, StTensor]:
        with files.open(shard) as file:
            return parse_st_header(file, size=sizes[shard], name=shard)

    if files.at_once == 1:
        return [read(shard) for shard in shards]
    with ThreadPoolExecutor(files.at_once) as pool:
        return list(pool.map(read, shards))


def _read_gguf(name: str, files: ModelFiles, sizes: Mapping[str, int], file: str) -> ModelInfo:
    parts = [file]
    if (part := PART.search(file)) is not None:
        parts = [
            f"{file[: part.start()]}-{number:05d}-of-{part[1]}{file[part.end() :]}"
            for number in range(1, int(part[1]) + 1)
        ]
        _require(files, sizes, parts)
    heads = []
    for one in parts:
        with files.open(one) as opened:
            heads.append(parse_head(opened, size=sizes[one], name=one))
    return describe_gguf(
        name,
        _joined(heads, parts),
        files={one: sizes[one] for one in parts},
        source=f"head of {', '.join(parts[:2])}{' ...' if len(parts) > 2 else ''} "  # noqa: PLR2004
        f"of {files.where}",
    )


def _joined(heads: list[Head], parts: list[str]) -> Head:
    """The first part's facts, with the tensors of all."""
    first = heads[0]
    weights = dict(first.weights)
    for head, part in zip(heads, parts, strict=True):
        count = head.facts.get("split.count", 0)
        if count not in {0, len(parts)}:
            raise HeaderError(
                f"{part} is one of {count} parts by its key 'split.count', but {len(parts)} by "
                f"its name; give the parts the names they were published with"
            )
        if head is not first:
            if twice := weights.keys() & head.weights.keys():
                raise HeaderError(f"{part}: {min(twice)!r} is in an earlier part too")
            weights |= head.weights
    told = first.facts.get("split.tensors.count", len(weights))
    if len(parts) > 1 and told != len(weights):
        raise HeaderError(f"{parts[0]}: its parts hold {len(weights)} tensors, not {told}")
    return Head(first.facts, weights, first.lengths, first.data_start)


def _require(files: ModelFiles, sizes: Mapping[str, int], wanted: list[str]) -> None:
    missing = [file for file in wanted if file not in sizes]
    if missing:
        raise HeaderError(
            f"{files.where} lacks {len(missing)} of {len(wanted)} weight files, {missing[0]} among "
            f"them: download them"
        )


def _small(files: ModelFiles, sizes: Mapping[str, int], file: str, limit: int) -> bytes:
    if sizes[file] > limit:
        raise HeaderError(f"{file} has {sizes[file]:,} bytes; {limit:,} is the limit")
    with files.open(file) as opened:
        data: bytes = opened.read(limit)
    return data


def _whole(file: str) -> str:
    """A part's name without its number."""
    return PART.sub("", file)


def _tag(file: str) -> str:
    """What names the quantization: in the file's name, or else in its folder's."""
    path = Path(file)
    found = _TAG.findall(path.stem) or _TAG.findall(path.parent.name)
    return found[-1] if found else file[: -len(".gguf")]


__all__ = ["list_quantizations", "read_info"]
