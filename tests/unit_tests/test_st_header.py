"""Headers of safetensors files: against the library's own reading, and files that lie."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from langchain_gpu.models.info import HeaderError
from langchain_gpu.models.packages import PACKAGES
from langchain_gpu.models.st_header import (
    StTensor,
    parse_index,
    parse_json,
    parse_st_header,
)
from tests.unit_tests.damaged_files import damaged, peak_of

MINILM = PACKAGES["sentence-transformers/all-MiniLM-L6-v2", "safetensors"][0]
SMALL = save(
    {
        "a.weight": np.ones((3, 5), np.float32),
        "b": np.ones(7, np.int64),
        "c": np.ones((), np.uint8),
    },
    {"format": "pt", 'odd "}{" note': "\\ {} é"},
)


def parse(data: bytes) -> dict[str, StTensor]:
    return parse_st_header(io.BytesIO(data), size=len(data), name="some.safetensors")


def of_text(header: str | bytes, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text)) + text + data


def of_entries(entries: Any, data: bytes = b"") -> bytes:
    return of_text(json.dumps(entries), data)


@pytest.mark.models
def test_a_real_file_as_the_library_sees_it() -> None:
    folder = MINILM.locate()
    assert folder is not None
    path = folder / MINILM.weights
    with path.open("rb") as file:
        found = parse_st_header(file, size=path.stat().st_size, name=path.name)
    with safe_open(path, "np") as theirs:
        slices = {key: theirs.get_slice(key) for key in theirs.keys()}  # noqa: SIM118 - no mapping
        assert {key: (t.dtype, t.shape) for key, t in found.items()} == {
            key: (part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()
        }
    with path.open("rb") as file:
        head = 8 + int.from_bytes(file.read(8), "little")
    assert sum(tensor.bytes for tensor in found.values()) + head == path.stat().st_size
    assert sum(t.params for t in found.values() if t.dtype == "F32") == 22_713_216


def test_names_and_notes_of_every_sort() -> None:
    found = parse(SMALL)
    assert {key: (t.dtype, t.shape, t.params, t.bytes) for key, t in found.items()} == {
        "a.weight": ("F32", (3, 5), 15, 60),
        "b": ("I64", (7,), 7, 56),
        "c": ("U8", (), 1, 1),
    }
    assert parse(save({}, None)) == {}
    assert parse(save({"": np.ones(2), 'a"b{}': np.ones((0, 4))})).keys() == {"", 'a"b{}'}


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool, torch.complex64]
)
def test_types_that_torch_writes(dtype: torch.dtype) -> None:
    found = parse(save_torch({"x": torch.zeros(6, dtype=dtype)}))["x"]
    assert (found.params, found.bytes) == (6, 6 * dtype.itemsize)


def entry(**change: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}}


LIES = {
    "it claims 18,446,744,073,709,551,615 bytes": b"\xff" * 7,
    "it claims 9,223,372,036,854,775,808 bytes": struct.pack("<Q", 2**63) + bytes(90),
    "it claims 91 bytes, the file has 98": struct.pack("<Q", 91) + bytes(90),
    "it does not begin with {": of_text("[]"),
    "no tensor's name at its byte 1": of_text("{x}"),
    "'x' has a malformed entry": of_text('{"x":' + "[" * 100_000),
    "it is no JSON": of_text('{"x":{"dtype":}}'),
    "'x' appears in it twice": of_text(
        '{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]},'
        '"x":{"dtype":"U8","shape":[],"data_offsets":[1,2]}}',
        b"  ",
    ),
    "something follows its end": of_text('{"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}}'),
    "'x' lacks its dtype, shape or data_offsets": of_entries({"x": {"shape": [2]}}),
    "'x' has the type 'F31', which is not known": of_entries(entry(dtype="F31"), bytes(8)),
    "'x' has the type ['F32'], which is not": of_entries(entry(dtype=["F32"]), bytes(8)),
    "'x' has no shape": of_entries(entry(shape=2), bytes(8)),
    "'x' has a size or an offset that is not a whole": of_entries(entry(shape=[-2]), bytes(8)),
    "that is not a whole number": of_entries(entry(shape=[2.0]), bytes(8)),
    "does not take 8 bytes": of_entries(entry(shape=[2**62, 2**62]), bytes(8)),
    "'x' begins at 4; the one before ends at 0": of_entries(entry(data_offsets=[4, 12]), bytes(12)),
    "its tensors end at byte": of_entries(entry(), bytes(7)),
}


@pytest.mark.parametrize("reason", LIES)
def test_a_file_that_lies_is_named_with_the_lie(reason: str) -> None:
    with pytest.raises(HeaderError) as caught:
        parse(LIES[reason])
    assert reason in str(caught.value)
    assert str(caught.value).startswith("some.safetensors")


def test_a_cut_file_is_named_with_the_remedy() -> None:
    with pytest.raises(HeaderError, match="it is cut short or was changed. Download it again"):
        parse(SMALL[:-3])


def survives(data: bytes) -> None:
    try:
        parse(data)
    except HeaderError as error:
        assert "some.safetensors" in str(error)  # noqa: PT017


MARKS = st.sampled_from([b"{", b"}", b'"', b"\\", b"[", b"9" * 20, b",", b":", b"\xff"])


@settings(max_examples=400, deadline=20_000)
@given(damaged(SMALL, range(len(SMALL)), MARKS))
def test_any_damage_is_read_or_named_in_little_memory(data: bytes) -> None:
    assert peak_of(lambda: survives(data)) < 2 << 20


@settings(max_examples=300, deadline=20_000)
@given(st.text(alphabet='{}[]",:\\ 0x_e', max_size=200))
def test_any_text_in_place_of_a_header(text: str) -> None:
    survives(of_text(text))
    survives(of_text('{"__metadata__":' + text))


@pytest.mark.parametrize(
    "body",
    [
        "[],",
        "{},",
        '"a":',
        '"__metadata__":{"a":"',
        '{"x":',
        "\\",
        " ",
    ],
)
def test_a_long_hostile_header_costs_no_more_than_its_bytes(body: str) -> None:
    """`json.loads` of the first of these takes 30 times its length."""
    data = of_text("{" + '"x":[' * body.startswith("[") + body * (2_000_000 // len(body)))
    assert peak_of(lambda: survives(data)) < 3 * len(data)


def test_an_index_names_its_shards() -> None:
    index = {"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}
    found = parse_index(json.dumps(index).encode(), name="index")
    assert found == ["m-1.safetensors", "m-2.safetensors"]


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/../../x.safetensors",
        "C:\\x.safetensors",
        "..\\x.safetensors",
        "x\0.safetensors",
        "pytorch_model.bin",
    ],
)
def test_an_index_stays_in_its_folder(shard: Any) -> None:
    text = json.dumps({"weight_map": {"a": shard}}).encode()
    with pytest.raises(HeaderError, match="index: weight_map names .*, no .safetensors of its"):
        parse_index(text, name="index")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 200_000, b"[]", b"1" * 10_000])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(HeaderError, match="config.json (is no JSON|holds no JSON object)"):
        parse_json(text, name="config.json")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 7}, {"a": None}, {"a": [[]]}])
def test_an_index_without_files(weight_map: Any) -> None:
    index = {"weight_map": weight_map}
    with pytest.raises(HeaderError, match="index has no weight_map|index: weight_map names a"):
        parse_index(json.dumps(index).encode(), name="index")


def test_a_file_that_shrinks_while_it_is_read() -> None:
    with pytest.raises(HeaderError, match="the file ends within it"):
        parse_st_header(io.BytesIO(SMALL[:20]), size=len(SMALL), name="some.safetensors")
