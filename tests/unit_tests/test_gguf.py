"""Heads of GGUF files: sums against llama.cpp's own package, and files that lie."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import gguf as published
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_gpu.models.ggml_types import FILE_TYPES, GGML_TYPES
from langchain_gpu.models.gguf import Head, parse_head, read_head
from langchain_gpu.models.info import HeaderError
from langchain_gpu.models.packages import PACKAGES
from tests.unit_tests import tiny_gguf
from tests.unit_tests.damaged_files import damaged, peak_of
from tests.unit_tests.tiny_gguf import decoder, gguf, text, value_of

SMOL = PACKAGES["HuggingFaceTB/SmolLM2-135M-Instruct", "gguf"][0]
SMALL = gguf(
    *decoder("llama", {"general.name": "small", "scaling": [1.0, 2.0], "words": ["a", "b"]})
)


def parse(data: bytes) -> Head:
    return parse_head(io.BytesIO(data), size=len(data), name="some.gguf")


def test_types_are_those_of_the_published_package() -> None:
    ours = {number: tuple(kind) for number, kind in GGML_TYPES.items()}
    theirs = {
        int(kind): (kind.name, *published.GGML_QUANT_SIZES[kind])
        for kind in published.GGMLQuantizationType
    }
    assert ours == theirs
    names = {
        int(kind): kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        for kind in published.LlamaFileType
    }
    assert {number: name for number, name in names.items() if number < 1024} == FILE_TYPES


@pytest.mark.models
def test_a_real_file_as_the_published_reader_sees_it() -> None:
    folder = SMOL.locate()
    assert folder is not None
    path = folder / SMOL.weights
    head = read_head(path)
    theirs = published.GGUFReader(path)
    assert {
        name: (tensor.shape, tensor.type, tensor.params, tensor.bytes)
        for name, tensor in head.weights.items()
    } == {
        tensor.name: (
            tuple(int(size) for size in tensor.shape),
            tensor.tensor_type.name,
            int(tensor.n_elements),
            int(tensor.n_bytes),
        )
        for tensor in theirs.tensors
    }
    for key, value in head.facts.items():
        assert theirs.fields[key].contents() == (list(value) if isinstance(value, tuple) else value)
    for key, length in head.lengths.items():
        assert len(theirs.fields[key].contents()) == length
    assert head.data_start == theirs.data_offset
    padded = sum(-(-tensor.bytes // 32) * 32 for tensor in head.weights.values())
    assert head.data_start + padded == path.stat().st_size


@pytest.mark.parametrize("kind", GGML_TYPES, ids=[kind.name for kind in GGML_TYPES.values()])
def test_every_type_counts_its_bytes(kind: int) -> None:
    head = parse(gguf({}, {"a": (kind, (512, 3)), "b": (0, (5,))}))
    tensor = head.weights["a"]
    assert tensor.type == GGML_TYPES[kind].name
    assert tensor.params == 1536
    theirs = published.GGML_QUANT_SIZES[published.GGMLQuantizationType(kind)]
    assert tensor.bytes == 1536 // theirs[0] * theirs[1]


def test_values_of_every_sort(tmp_path: Path) -> None:
    facts = {
        "a": 3,
        "b": "x",
        "c": True,
        "d": [1, 2],
        "e": ["x", "yy"],
        "f": [[1], [2, 3]],
        "g": [],
    }
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(facts, {}, version=2))
    head = read_head(path)
    assert head.facts == {"a": 3, "b": "x", "c": True, "d": (1, 2), "g": ()}
    assert head.lengths == {"d": 2, "e": 2, "f": 2, "g": 0}


def test_a_head_longer_than_a_piece() -> None:
    words = [f"word{number}" * 40 for number in range(20_000)]
    head = parse(gguf({"words": words, "after": 7, "long": [1] * 300_000, "last": "z"}, {}))
    assert head.lengths == {"words": 20_000, "long": 300_000}
    assert head.facts == {"after": 7, "last": "z"}


def head_of(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, keys) + rest


def one_tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    entry = text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return head_of(1, 0, entry + bytes(4096))


NESTED = struct.pack("<IQ", tiny_gguf.ARRAY, 1)
LIES = {
    "it begins with b'RIFF'": b"RIFF" + bytes(40),
    "it is big-endian": struct.pack(">4sIQQ", b"GGUF", 3, 0, 0),
    "its version is 1;": head_of(0, 0, version=1),
    "its version is 9;": head_of(0, 0, version=9),
    "it claims 1,152,921,504,606,846,976 tensors": head_of(2**60, 0),
    "it claims 1,152,921,504,606,846,976 keys": head_of(0, 2**60),
    "a key claims 4,611,686,018,427,387,904 bytes": head_of(
        0, 1, struct.pack("<Q", 2**62) + b"x" * 9
    ),
    "the text of 'k' claims 99 bytes": head_of(0, 1, text("k") + struct.pack("<IQ", 8, 99)),
    "the list 'k' claims 1,099,511,627,776 items": head_of(
        0, 1, text("k") + struct.pack("<IIQ", 9, 4, 2**40)
    ),
    "a text of 'k' claims 1,000 bytes": head_of(
        0, 1, text("k") + struct.pack("<IIQQ", 9, 8, 2, 1000) + bytes(64)
    ),
    "the lists of 'k' are nested more than 4 deep": head_of(
        0, 1, text("k") + struct.pack("<I", 9) + NESTED * 20 + bytes(64)
    ),
    "'k' has a value of the unknown type 77": head_of(0, 1, text("k") + struct.pack("<I", 77)),
    "holds values of the unknown type 78": head_of(0, 1, text("k") + struct.pack("<IIQ", 9, 78, 0)),
    "a key is no UTF-8": head_of(0, 1, struct.pack("<Q", 2) + b"\xff\xfe" + bytes(9)),
    "the key 'k' appears in it twice": head_of(0, 2, (text("k") + value_of(1)) * 2),
    "general.alignment is 24": head_of(0, 1, text("general.alignment") + value_of(24)),
    "'t' claims 9 dimensions": one_tensor("t", (1,) * 9, 0, 0),
    "'t' has the tensor type 4, which is not known": one_tensor("t", (32,), 4, 0),
    "'t': rows of (33,) are not whole blocks of Q8_0": one_tensor("t", (33,), 8, 0),
    "'t' overlaps another tensor, or is not aligned": one_tensor("t", (4,), 0, 7),
    "is cut short: 't' ends at byte": one_tensor("t", (2**62, 2**62, 2**62, 2**62), 0, 0),
    "a tensor's name claims 5,000 bytes": one_tensor("t" * 5000, (4,), 0, 0),
}


@pytest.mark.parametrize("reason", LIES)
def test_a_file_that_lies_is_named_with_the_lie(reason: str) -> None:
    with pytest.raises(HeaderError) as caught:
        parse(LIES[reason])
    assert reason in str(caught.value)
    assert str(caught.value).startswith("some.gguf ")


def test_tensors_on_one_another() -> None:
    data = bytearray(gguf({}, {"a": (0, (64,)), "b": (0, (64,))}))
    place = data.rindex(struct.pack("<Q", 256))
    data[place : place + 8] = struct.pack("<Q", 32)
    with pytest.raises(HeaderError, match="'b' overlaps another tensor"):
        parse(bytes(data))


def test_a_cut_file_is_named_with_the_remedy() -> None:
    with pytest.raises(HeaderError, match=r"some.gguf is cut short: .* Download it again"):
        parse(SMALL[:-64])


def survives(data: bytes) -> None:
    try:
        parse(data)
    except HeaderError as error:
        assert "some.gguf" in str(error)  # noqa: PT017


WILD_LENGTHS = st.sampled_from(
    [struct.pack("<Q", number) for number in (2**16, 2**31, 2**40, 2**63, 2**64 - 1)]
)


@settings(max_examples=300, deadline=20_000)
@given(damaged(SMALL, range(701), WILD_LENGTHS))
def test_any_damage_is_read_or_named_in_little_memory(data: bytes) -> None:
    assert peak_of(lambda: survives(data)) < 4 << 20


@settings(max_examples=200, deadline=20_000)
@given(st.binary(max_size=400))
def test_any_bytes_behind_a_preamble(rest: bytes) -> None:
    assert peak_of(lambda: survives(head_of(2, 3, rest))) < 4 << 20
    assert peak_of(lambda: survives(rest)) < 4 << 20


@pytest.mark.models
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_real_head_with_damage(data: st.DataObject) -> None:
    folder = SMOL.locate()
    assert folder is not None
    with (folder / SMOL.weights).open("rb") as file:
        head = bytearray(file.read(2 << 20))
    place = data.draw(st.integers(0, len(head) - 8))
    head[place : place + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    survives(bytes(head))


def test_kept_lists_are_bounded_in_all() -> None:
    lists = {f"list{number}": [70_000] * 4096 for number in range(100)}
    data = gguf({**lists, "after": 5}, {})
    head = parse(data)
    assert len(head.lengths) == 100
    assert sum(len(value) for value in head.facts.values() if isinstance(value, tuple)) == 1 << 18
    assert head.facts["after"] == 5


def test_a_head_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_gpu.models.gguf._MAX_HEAD", 4096)
    assert parse(gguf({"few": ["x"] * 100}, {"a": (0, (5000,))})).weights["a"].bytes == 20_000
    with pytest.raises(HeaderError, match="goes on past byte 4,096"):
        parse(gguf({"many": ["word"] * 400}, {}))


def test_many_short_lists_cost_no_more_than_the_file() -> None:
    """Lists of lists are walked, not built."""
    empty = struct.pack("<IQ", tiny_gguf.UINT32, 0)
    data = head_of(0, 1, text("k") + struct.pack("<IIQ", 9, 9, 20_000) + empty * 20_000)
    assert peak_of(lambda: parse(data)) < 4 * len(data)
