"""Documents on their way in, and metadata that comes back as it went in."""

from __future__ import annotations

import datetime as dt
import enum
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_gpu.store.batch import check, decode_metadata, encode_metadata, random_ids
from langchain_gpu.store.errors import DocumentError, StoreError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_ids_are_made_where_none_is_given() -> None:
    batch = check(["a", "b", "c"], ids=["x", None, "z"])
    assert (batch.ids[0], batch.ids[2]) == ("x", "z")
    assert len(set(batch.ids)) == 3
    assert len(set(check(["a"] * 1000).ids)) == 1000


def test_random_ids_are_32_hexadecimal_digits() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{32}", id_) for id_ in random_ids(5))
    assert random_ids(0) == []


def test_generators_are_taken() -> None:
    batch = check((text for text in "ab"), ({"n": n} for n in range(2)), (id_ for id_ in "xy"))
    assert (batch.ids, batch.texts, batch.metadata) == (
        ["x", "y"],
        ["a", "b"],
        ['{"n":0}', '{"n":1}'],
    )
    assert batch.name(1) == "document 1 (id 'y')"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "abc"}, "a list is needed, not a single str"),
        ({"texts": b"abc"}, "a list is needed, not a single bytes"),
        ({"texts": ["a", None]}, "text 1 is NoneType, not str"),
        ({"texts": ["a", b"b"]}, "text 1 is bytes, not str"),
        ({"texts": ["a", 3]}, "text 1 is int, not str"),
        ({"texts": ["a"], "ids": [3]}, "id 0 is int, not str"),
        ({"texts": ["a", "b"], "ids": "xy"}, "a list is needed, not a single str"),
        ({"texts": ["a", "b"], "ids": ["x", 3]}, "id 1 is int, not str"),
    ],
)
def test_what_is_no_string_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ["a", "b"], "ids": ["x"]}, "2 texts came with 1 ids"),
        ({"texts": ["a"], "metadatas": []}, "1 texts came with 0 metadatas"),
        (
            {"texts": ["a", "b", "c"], "ids": ["x", "y", "x"]},
            "the id 'x' appears twice in one call, for documents 0 and 2",
        ),
        ({"texts": ["a"], "metadatas": ["x"]}, "metadata of document 0 is a str, not a dict"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        check(**arguments)
    assert issubclass(DocumentError, StoreError)
    assert issubclass(StoreError, ValueError)


def test_no_metadata_is_an_empty_dictionary() -> None:
    assert check(["a", "b"], [None, {}]).metadata == ["{}", "{}"]


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_metadata_comes_back_as_it_went_in(metadata: dict[str, Any]) -> None:
    text = encode_metadata(metadata, 0)
    assert decode_metadata(text) == metadata
    assert decode_metadata(text) is not decode_metadata(text)


class Color(enum.StrEnum):
    RED = "red"


def circle() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    "value",
    [
        dt.timedelta(1),
        dt.time(12),
        np.datetime64("NaT"),
        {"$date": "2026-01-31"},
        {1, 2},
        (1, 2),
        [(1, 2)],
        {"inner": {3: 4}},
        b"bytes",
        object(),
        float("nan"),
        float("inf"),
        np.float32("nan"),
        Decimal(1),
        np.zeros(2),
        10**5000,
        circle(),
        pytest.param(deep(), id="deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_named_by_document_and_key(value: Any) -> None:
    with pytest.raises(DocumentError, match=r"document 1 is not JSON at key 'bad'.*keep str"):
        check(["a", "b"], [{"n": 1}, {"good": 1, "bad": value}])


def test_a_key_that_is_no_string_is_named() -> None:
    with pytest.raises(DocumentError, match="document 0 has the key 3, which is not a string"):
        encode_metadata({3: "x"}, 0)


@pytest.mark.parametrize("value", [Color.RED, np.float64(0.5), np.str_("x"), True, "\ud800", "\0"])
def test_what_json_holds_under_another_type_is_kept(value: Any) -> None:
    assert decode_metadata(check(["a"], [{"x": value}]).metadata[0]) == {"x": value}


@pytest.mark.parametrize(
    "value",
    [
        dt.date(2026, 1, 31),
        dt.datetime(2026, 1, 31, 12, 30, 1, 5),  # noqa: DTZ001 - without a zone on purpose
        dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
        dt.datetime.min,  # noqa: DTZ901 - as far back as it goes
        dt.date.max,
    ],
    ids=str,
)
def test_dates_come_back_as_dates(value: Any) -> None:
    metadata = {"x": value, "inner": [{"y": value}]}
    found = decode_metadata(check(["a"], [metadata]).metadata[0])
    assert found == metadata
    assert type(found["x"]) is type(value)
    assert getattr(found["x"], "tzinfo", None) == getattr(value, "tzinfo", None)


@pytest.mark.parametrize(
    "value",
    [np.int64(3), np.float32(0.1), np.bool_(0), np.datetime64("2026-01-31T12:00:00.5")],
)
def test_numbers_of_numpy_come_back_as_equal_ones_of_python(value: Any) -> None:
    found = decode_metadata(check(["a"], [{"x": value}]).metadata[0])["x"]
    assert found == value
    assert not isinstance(found, np.generic)


class Moment(dt.datetime):
    """A subclass, as pandas has one."""


class Never(dt.datetime):
    """Not a time, which pandas has too."""

    def isoformat(self, *_: Any, **__: Any) -> str:
        return "NaT"


def test_moments_of_other_libraries_are_datetimes() -> None:
    moment = Moment(2026, 1, 31, tzinfo=dt.UTC)
    found = decode_metadata(check(["a"], [{"x": moment}]).metadata[0])["x"]
    assert found == moment
    assert type(found) is dt.datetime
    with pytest.raises(DocumentError, match="JSON would change it"):
        check(["a"], [{"x": Never(2026, 1, 31, tzinfo=dt.UTC)}])


@pytest.mark.parametrize("own", [{"$datetime": "soon"}, {"$date": 3}, {"$date": "x", "y": 1}])
def test_dictionaries_that_look_like_dates_stay_dictionaries(own: Any) -> None:
    assert decode_metadata(check(["a"], [{"x": own}]).metadata[0]) == {"x": own}
