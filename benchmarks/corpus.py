"""Real English of any length: the docstrings on this machine, never the same text twice."""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

# Tokens of each word, special tokens left out.
Count = Callable[[Sequence[str]], Sequence[int]]

# Words kept for a second reading. The standard library alone has about 300,000.
_KEEP = 1_000_000
# Words whose tokens are counted at once.
_BLOCK = 4096
_SPECIAL = 2  # tokens an encoder puts around a text


class Corpus:
    """Cuts texts of wished lengths out of a stream of words.

    When all words have been read they come again in another order of their paragraphs, cut in
    other places. A text that came before is left out, so that no contestant can remember one.

    Args:
        count: Counts the tokens of words; a text's tokens are the sum over its words.
        paragraphs: Where the words come from; None for the docstrings on this machine.
        seed: Of the order in which paragraphs come again.
    """

    def __init__(
        self, count: Count, paragraphs: Iterable[str] | None = None, *, seed: int = 0
    ) -> None:
        self._count = count
        self._source = docstrings() if paragraphs is None else iter(paragraphs)
        self._seed = seed
        self._known: dict[str, int] = {}
        self._seen: set[int] = set()
        self._words = self._sized()

    def texts(self, tokens: Iterable[int]) -> list[str]:
        """Return one text per entry of `tokens`, each as close below it as whole words allow.

        Args:
            tokens: Wished lengths, special tokens included.
        """
        return list(self.stream(tokens))

    def stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Do the same, one text at a time."""
        waiting: tuple[str, int] | None = None
        for wished in tokens:
            while True:
                room, words = max(1, int(wished) - _SPECIAL), list[str]()
                while True:
                    word, size = waiting or next(self._words)
                    waiting = None
                    if words and size > room:
                        waiting = (word, size)
                        break
                    words.append(word)
                    room -= size
                    if room <= 0:
                        break
                text = " ".join(words)
                if (key := hash(text)) not in self._seen:
                    self._seen.add(key)
                    break
                next(self._words)  # else the same cuts would come again and again
            yield text

    def _sized(self) -> Iterator[tuple[str, int]]:
        """Yield words with their tokens, without end."""
        block: list[str] = []
        for word in self._all_words():
            block.append(word)
            if len(block) >= _BLOCK:
                yield from self._measure(block)
                block = []

    def _measure(self, block: list[str]) -> Iterator[tuple[str, int]]:
        new = sorted(set(block) - self._known.keys())
        if new:
            self._known.update(zip(new, self._count(new), strict=True))
        # A word of no tokens (a control character) would never fill a text.
        return ((word, max(1, self._known[word])) for word in block)

    def _all_words(self) -> Iterator[str]:
        kept: list[list[str]] = []
        total = 0
        for paragraph in self._source:
            words = paragraph.split()
            if not words:
                continue
            yield from words
            kept.append(words)
            total += len(words)
            if total >= _KEEP:
                break
        if not kept:
            raise ValueError("the corpus has no words")
        order = random.Random(self._seed)  # noqa: S311 - an order, not a secret
        while True:
            order.shuffle(kept)
            for words in kept:
                yield from words


def docstrings() -> Iterator[str]:
    """Yield the docstrings of the standard library and the installed packages, parsed only."""
    seen: set[str] = set()
    for name in ("stdlib", "purelib"):
        root = Path(sysconfig.get_path(name))
        for path in sorted(root.rglob("*.py")):
            if name == "stdlib" and "site-packages" in path.parts:
                continue
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, ValueError, OSError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                    text = ast.get_docstring(node)
                    if text and text not in seen:
                        seen.add(text)
                        yield text


class WordCounter:
    """Counts tokens with a model's own tokenizer.

    Args:
        folder: Of the model; holds `tokenizer.json`.
        window: Tokens the model reads at most.
    """

    def __init__(self, folder: Path, window: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._window = window

    def words(self, words: Sequence[str]) -> list[int]:
        """Count the tokens of words, special tokens left out."""
        found = self._tokenizer.encode_batch_fast(list(words), add_special_tokens=False)
        return [len(each.ids) for each in found]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, cut to the window, special tokens included."""
        found = self._tokenizer.encode_batch_fast(list(texts))
        return [
            each.ids
            if len(each.ids) <= self._window
            else [*each.ids[: self._window - 1], each.ids[-1]]
            for each in found
        ]

    def lengths(self, texts: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the tokens a model computes for each text. Shape (texts,)."""
        found = self._tokenizer.encode_batch_fast(list(texts))
        return np.minimum(np.array([len(each.ids) for each in found], np.int64), self._window)
