"""Texts by which the ranges of 8-bit integers are found, and their loss measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pydoc_data.topics import topics

# Texts of these many words are drawn in equal parts: questions, sentences, passages.
_WORDS = (3, 8, 20, 60, 150)
_DRAWN = 128
_FEWEST = 32  # given texts, below which drawn ones are added
_MOST = 512  # given texts that are used


def samples(given: Sequence[str]) -> list[str]:
    """Return the texts to calibrate and to measure with: those given, or drawn ones.

    The drawn ones are English prose of several lengths, out of Python's own language reference.
    """
    texts = list(given)
    if len(texts) > _MOST:
        texts = random.Random(0).sample(texts, _MOST)  # noqa: S311 - the same every time
    if len(texts) >= _FEWEST:
        return texts
    words = " ".join(topics[name] for name in sorted(topics)).split()
    draw = random.Random(0)  # noqa: S311 - the same every time
    for number in range(_DRAWN):
        start = draw.randrange(len(words) - max(_WORDS))
        texts.append(" ".join(words[start : start + _WORDS[number % len(_WORDS)]]))
    return texts


__all__ = ["samples"]
