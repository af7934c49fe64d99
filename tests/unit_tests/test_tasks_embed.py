"""Texts to tokens, as an embedder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from langchain_gpu.engine.tasks.embed import TextTokenizer


class Recorder:
    """A tokenizer that notes how many texts it holds the tokens of."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self._tokenizer = Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?"))  # noqa: S106
        self._tokenizer.pre_tokenizer = Whitespace()

    def encode_batch_fast(self, texts: Sequence[str]) -> Any:
        self.batches.append(len(texts))
        return self._tokenizer.encode_batch_fast(texts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def made(recorder: Recorder, window: int | None) -> TextTokenizer:
    return TextTokenizer(recorder, window=window, inputs=["input_ids"], pad_id=0, left=False)


@pytest.mark.parametrize("window", [None, 4])
def test_the_tokens_of_a_whole_file_are_not_held_at_once_to_be_counted(window: int | None) -> None:
    recorder = Recorder()
    texts = ["a " * (number % 11) for number in range(5000)]
    assert made(recorder, window).count(texts) == [number % 11 for number in range(5000)]
    assert max(recorder.batches) <= 1024


def test_of_many_texts_the_wrong_one_is_named() -> None:
    texts: list[Any] = ["a"] * 3000
    texts[2345] = 7
    with pytest.raises(TypeError, match="2345"):
        made(Recorder(), None).count(texts)
