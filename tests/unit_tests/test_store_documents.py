"""The table of documents against a dictionary, and its lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_gpu.store.documents import Documents, Entry, parse

IDS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=4)


def table(*ids: str, next_row: int = 0) -> Documents:
    documents = Documents(next_row)
    documents.append(ids, [id_.upper() for id_ in ids], ["{}"] * len(ids))
    return documents


@given(st.lists(st.tuples(st.booleans(), IDS), max_size=12))
def test_against_a_dictionary(steps: list[tuple[bool, list[str]]]) -> None:
    documents, model, rows = Documents(), dict[str, Entry](), dict[str, int]()
    for number, (adding, ids) in enumerate(steps):
        documents.remove(documents.rows_of(ids).tolist())
        for id_ in ids:
            model.pop(id_, None)
        if adding:
            first = documents.next_row
            documents.append(ids, [f"{id_}{number}" for id_ in ids], ["{}"] * len(ids))
            rows |= {id_: first + position for position, id_ in enumerate(ids)}
            model |= {id_: Entry(id_, f"{id_}{number}", "{}") for id_ in ids}
        assert len(documents) == len(model)
        assert {id_: documents.get(id_) for id_ in model} == model
        picked = documents.pick([rows[id_] for id_ in model])
        assert dict(zip(model, map(Entry, *picked), strict=True)) == model
        assert documents.pick_ids([rows[id_] for id_ in model]) == list(model)
        assert documents.rows().tolist() == sorted(rows[id_] for id_ in model)
    again = parse(documents.lines(), documents.next_row)
    assert again.columns() == documents.columns()
    assert again.rows().tolist() == documents.rows().tolist()
    assert again.next_row == documents.next_row


def test_rows_are_never_used_twice() -> None:
    documents = table("a", "b")
    documents.remove([0, 1])
    documents.append(["a"], ["A"], ["{}"])
    assert documents.rows_of(["a"]).tolist() == [2]
    assert documents.pick([2]) == (["a"], ["A"], ["{}"])
    assert documents.pick([]) == ([], [], [])


@pytest.mark.parametrize("gone", [[], [0], [1], [2], [0, 2], [0, 1, 2]])
def test_rows_that_are_not_here_are_an_error(gone: list[int]) -> None:
    documents = table("a", "b", "c")
    documents.remove(gone)
    left = [row for row in range(3) if row not in gone]
    assert documents.pick_ids(left[::-1]) == ["abc"[row] for row in left[::-1]]
    for row in (-4, -1, *gone, 3, 9):
        with pytest.raises(LookupError, match="are here"):
            documents.pick([*left, row])


@pytest.mark.parametrize(
    "text", ["", "\0", 'quo"te\\', "é漢😀", "\ud800 half", "line\nbreak\u2028\r"]
)
def test_every_text_survives_its_line(text: str) -> None:
    documents = Documents()
    documents.append([text], [text], [json.dumps({"key": text}, ensure_ascii=False)])
    lines = list(documents.lines())
    assert len(lines) == 1
    assert lines[0].count(b"\n") == 1
    assert json.loads(lines[0])["text"] == text
    entry = parse(lines, 1).get(text)
    assert entry is not None
    assert (entry.text, json.loads(entry.metadata)) == (text, {"key": text})


def line(**changes: Any) -> bytes:
    return json.dumps({"row": 0, "id": "a", "text": "A", "metadata": {}} | changes).encode()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b"{"], "line 1 is not a document"),
        ([b"[]"], "line 1 is not a document"),
        ([b"{}"], "line 1 is not a document.*row"),
        ([b"\xff"], "line 1 is not a document"),
        ([line(), line(row=True)], "line 2 is not a document"),
        ([line(id=3)], "line 1 is not a document"),
        ([line(text=None)], "line 1 is not a document"),
        ([line(metadata=[])], "line 1 is not a document"),
        ([line(), line(id="b")], "line 2 has row 0, which is out of order"),
        ([line(row=7)], "line 1 has row 7, which is out of order"),
        ([line(), line(row=1)], "line 2 repeats the id 'a'"),
        ([b"[" * 100_000], "line 1 is not a document"),
    ],
)
def test_a_bad_line_is_named(lines: list[bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(lines, 7)
