"""Dictionary filters: what each operator admits, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from langchain_gpu.search.filters import OPERATORS, compile_filter

PAPER = {"lang": "en", "year": 2020, "tags": ["a", "b"], "draft": False, "note": None}


@pytest.mark.parametrize(
    ("spec", "admitted"),
    [
        ({}, True),
        ({"lang": "en"}, True),
        ({"lang": "de"}, False),
        ({"lang": "en", "year": 2020}, True),
        ({"lang": "en", "year": 2021}, False),
        ({"lang": {"$eq": "en"}}, True),
        ({"lang": {"$ne": "en"}}, False),
        ({"missing": {"$ne": "en"}}, True),
        ({"missing": None}, True),
        ({"note": None}, True),
        ({"year": None}, False),
        ({"year": {"$in": [2019, 2020]}}, True),
        ({"year": {"$in": []}}, False),
        ({"year": {"$nin": [2019, 2020]}}, False),
        ({"missing": {"$nin": [1]}}, True),
        ({"missing": {"$in": [None]}}, True),
        ({"tags": {"$in": [["a", "b"], "c"]}}, True),
        ({"tags": {"$in": ["a", "b"]}}, False),
        ({"tags": {"$eq": ["a", "b"]}}, True),
        ({"year": {"$gt": 2019}}, True),
        ({"year": {"$gt": 2020}}, False),
        ({"year": {"$gte": 2020, "$lt": 2021}}, True),
        ({"year": {"$lte": 2019}}, False),
        ({"lang": {"$gt": 3}}, False),
        ({"missing": {"$lt": 3}}, False),
        ({"note": {"$gte": 0}}, False),
        ({"tags": {"$contains": "a"}}, True),
        ({"tags": {"$contains": "ab"}}, False),
        ({"tags": {"$not": {"$contains": "a"}}}, False),
        ({"tags": {"$contains": "a", "$ne": ["a"]}}, True),
        ({"$or": [{"tags": {"$contains": "x"}}, {"tags": {"$contains": "b"}}]}, True),
        ({"lang": {"$contains": "n"}}, True),
        ({"lang": {"$contains": "de"}}, False),
        ({"lang": {"$contains": 1}}, False),
        ({"year": {"$contains": 2}}, False),
        ({"note": {"$contains": "a"}}, False),
        ({"missing": {"$contains": "a"}}, False),
        ({"note": {"$exists": True}}, True),
        ({"missing": {"$exists": True}}, False),
        ({"missing": {"$exists": False}}, True),
        ({"$and": [{"lang": "en"}, {"year": {"$gt": 2000}}]}, True),
        ({"$and": []}, True),
        ({"$or": [{"lang": "de"}, {"year": 2020}]}, True),
        ({"$or": []}, False),
        ({"$not": {"lang": "en"}}, False),
        ({"year": {"$not": {"$gt": 2020}}}, True),
        ({"year": {"$not": 2020}}, False),
        ({"$or": [{"lang": "de"}, {"lang": "fr"}], "year": 2020}, False),
        ({"$not": {"$or": [{"lang": "de"}, {"$and": [{"year": 1}, {"lang": "en"}]}]}}, True),
        ({"nested": {"a": 1}}, False),
    ],
)
def test_every_operator_admits_what_it_should(spec: dict[str, Any], admitted: bool) -> None:  # noqa: FBT001 - a table's column
    assert compile_filter(spec)(PAPER) is admitted


def test_plain_dictionaries_are_compared_whole() -> None:
    admits = compile_filter({"author": {"name": "x"}})
    assert admits({"author": {"name": "x"}})
    assert not admits({"author": {"name": "x", "year": 1}})


def test_a_callable_is_taken_as_it_is() -> None:
    assert compile_filter(lambda metadata: bool(metadata["year"] > 2000))(PAPER)


@pytest.mark.parametrize("spec", [{"$near": 1}, {"year": {"$near": 1}}, {"$and": [{"$near": 1}]}])
def test_an_unknown_operator_is_named_beside_the_known_ones(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape("'$near'")) as raised:
        compile_filter(spec)
    assert all(operator in str(raised.value) for operator in OPERATORS)


def test_one_operator_and_one_field_together_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown filter operator 'name'"):
        compile_filter({"author": {"$eq": 1, "name": "x"}})


def test_a_field_operator_at_the_top_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match="belongs inside a field"):
        compile_filter({"$gt": 3})


def test_an_operator_without_its_dollar_is_refused_with_both_ways() -> None:
    with pytest.raises(
        ValueError, match=r"'year' holds 'gte': write \{'\$gte': \.\.\.\} for the op"
    ):
        compile_filter({"year": {"gte": 2020, "lt": 2025}})
    assert compile_filter({"tag": {"$eq": {"in": 1}}})({"tag": {"in": 1}})
    assert compile_filter({"tag": {"in": 1, "stock": 2}})({"tag": {"in": 1, "stock": 2}})


def test_a_bare_list_is_ambiguous() -> None:
    with pytest.raises(ValueError, match=r"'lang' holds a bare list.*\$in"):
        compile_filter({"lang": ["en", "de"]})


@pytest.mark.parametrize(
    "spec",
    [
        {"year": {"$in": 2020}},
        {"lang": {"$in": "en"}},
        {"$and": {"lang": "en"}},
        {"year": {"$exists": 1}},
        {"$or": ["en"]},
        {"$not": "en"},
        {1: 2},
        "lang = en",
        None,
        [{"lang": "en"}],
    ],
)
def test_wrong_operands_are_type_errors(spec: Any) -> None:
    with pytest.raises(TypeError, match="filter"):
        compile_filter(spec)
