"""Which models a store takes for its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from langchain_gpu.store.errors import WrongModelError
from langchain_gpu.store.identity import Identity, accept, names


class Model:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


STORED = Identity("org/model", "abc", (1.0, 2.0, 3.0))


def never(_text: str) -> Any:
    pytest.fail("the names decide")


def gives(*numbers: float) -> Any:
    return lambda _text: np.array(numbers, dtype=np.float32)


def test_names_are_read_where_embeddings_keep_them() -> None:
    assert names(Model(model="a", revision="r")) == ("a", "r")
    assert names(Model(model_name="b")) == ("b", None)
    assert names(Model(model=object(), model_name="c")) == ("c", None)
    assert names(Model()) == (None, None)


@pytest.mark.parametrize("revision", [None, "abc"])
def test_the_same_name_is_enough(revision: str | None) -> None:
    accept(STORED, Model(model="org/model", revision=revision), never)


def test_the_name_of_a_folder_is_not_enough(tmp_path: Path) -> None:
    stored = Identity(str(tmp_path), None, (1.0, 2.0, 3.0))
    accept(stored, Model(model=str(tmp_path)), gives(1, 2, 3))
    with pytest.raises(WrongModelError, match=r"cosine 0\.714"):
        accept(stored, Model(model=str(tmp_path)), gives(3, 2, 1))


@pytest.mark.parametrize(
    "model", [Model(model="/moved/model"), Model(), Model(model="org/model", revision="def")]
)
def test_otherwise_the_vector_of_the_text_decides(model: Model) -> None:
    accept(STORED, model, gives(2, 4, 6.1))
    with pytest.raises(WrongModelError, match="'org/model' at revision abc.*cosine 0.714"):
        accept(STORED, model, gives(3, 2, 1))


def test_both_models_and_the_remedy_are_named() -> None:
    with pytest.raises(WrongModelError, match="org/model.*'other'.*2 dimensions.*3.*load it with"):
        accept(STORED, Model(model_name="other"), gives(1, 2))
    with pytest.raises(WrongModelError, match="a model without a name.*the given Model is another"):
        accept(Identity(None, None, (1.0,)), Model(), gives(-1))


def test_a_model_that_makes_zeros_is_its_own() -> None:
    accept(Identity(None, None, (0.0, 0.0)), Model(), gives(0, 0))
    with pytest.raises(WrongModelError):
        accept(Identity(None, None, (0.0, 0.0)), Model(), gives(0, 1))
