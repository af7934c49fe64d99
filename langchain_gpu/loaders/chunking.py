"""Documents -> chunks that fit the embedder's window."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_gpu.utils.extras import require

MAX_TOKENS = 512  # a window of 8,192 tokens is no reason for chunks nobody wants to read
CHARACTERS = 1000  # where nobody can count tokens
OVERLAP_SHARE = 8  # an eighth of a chunk is repeated in the next one

_LANGUAGES = {
    ".htm": "markdown",  # the loader writes HTML's headings as Markdown's
    ".html": "markdown",
    ".markdown": "markdown",
    ".md": "markdown",
    ".py": "python",
}
# The library's own list cuts reStructuredText between a title and its underline.
_RST_TITLE = r"\n(?=[^\n]+\n(?:={3,}|-{3,}|~{3,}|\^{3,}|\"{3,}|'{3,}|\*{3,}|\+{3,}|#{3,})[ ]*\n)"
_PARAGRAPHS = ["\n\n", "\n"]
_SENTENCES = [r"(?<=[.!?…])(?=\s)|(?<=[\u3002\uff01\uff1f])", " "]
# After words the library cuts single characters: minutes on a long line without a space. Clauses
# and pieces of 16 come first.
_LAST = [r"(?<=[,;:)\]}\u3001\uff0c\uff1b])", r"[\s\S]{1,16}", ""]


class Chunker:
    """Cuts Documents into chunks with `RecursiveCharacterTextSplitter`, sized in tokens.

    Tokens are counted by the embedder itself (`embedding.count_tokens`), and no chunk is longer
    than its window (`embedding.window`). For an `Embeddings` without these two the size is in
    characters. Python is cut at classes and functions first, Markdown and HTML at headings,
    reStructuredText at titles, everything at paragraphs, lines, sentences, words.

    Args:
        embedding: What will embed the chunks; None counts characters.
        size: Most tokens (or characters) in a chunk, special tokens not counted. Default: what the
            window holds, at most 512 tokens; 1,000 characters.
        overlap: How much of a chunk is repeated at the head of the next one, at most. Default: an
            eighth of `size`.

    Raises:
        ImportError: langchain-text-splitters is not installed.
        ValueError: `size` is beyond the window, or `overlap` is not below `size`.
    """

    def __init__(
        self,
        embedding: Embeddings | None = None,
        *,
        size: int | None = None,
        overlap: int | None = None,
    ) -> None:
        self._library = require("langchain_text_splitters", extra="cli")
        count: Callable[[Sequence[str]], list[int]] | None
        count = getattr(embedding, "count_tokens", None)
        self._words = None if count is None else _WordCounts(count)
        window: int | None = getattr(embedding, "window", None)
        room = None if window is None or self._words is None else window - self._words.special
        if size is not None and (size < 1 or (room is not None and size > room)):
            limit = "" if room is None else f" and at most {room}, which fills the model's window"
            raise ValueError(f"chunk size must be at least 1{limit}, not {size}")
        default = CHARACTERS if self._words is None else min(room or MAX_TOKENS, MAX_TOKENS)
        self.size = default if size is None else size
        self.overlap = self.size // OVERLAP_SHARE if overlap is None else overlap
        if not 0 <= self.overlap < self.size:
            raise ValueError(
                f"overlap must be at least 0 and below the chunk size {self.size}, not {overlap}"
            )
        self._length = len if self._words is None else self._words.total
        self._splitters: dict[tuple[str, int], Any] = {}

    def split(self, documents: Iterable[Document]) -> list[Document]:
        """Cut `documents`; each chunk keeps the metadata and gets `start`.

        `start` is the chunk's offset in the text of its Document (the file, page or row), in
        characters. A Document of white space alone gives no chunk.
        """
        whole = list(documents)
        if self._words is not None:
            self._words.learn(document.page_content for document in whole)
        cut = [
            (document, start, text)
            for document in whole
            for start, text in self._cut(document.page_content, _suffix(document), self.size)
        ]
        return [
            Document(text, metadata={**document.metadata, "start": start + offset})
            for (document, start, piece), tokens in zip(
                cut, self._tokens([text for _, _, text in cut]), strict=True
            )
            for offset, text in self._fit(piece, _suffix(document), tokens)
        ]

    def _tokens(self, texts: list[str]) -> list[int]:
        if self._words is None:
            return [len(text) for text in texts]
        return self._words.counts(texts, trusted=self.size // 2)

    def _cut(self, text: str, suffix: str, size: int) -> Iterator[tuple[int, str]]:
        """Yield start and text of each piece, as far as the sum of its words' tokens says."""
        if self._words is not None:
            self._words.forget_lengths()
        if self._length(text) <= size:  # most files, rows and docstrings: nothing to cut
            if whole := text.strip():
                yield text.index(whole), whole
            return
        overlap = self.overlap * size // self.size
        start = end = 0
        for piece in self._splitter(suffix, size, overlap).split_text(text):
            # The library's own start index takes the overlap for characters and gets lost.
            start = text.index(piece, start + 1 if overlap and end else end)
            end = start + len(piece)
            yield start, piece

    def _fit(self, text: str, suffix: str, tokens: int) -> Iterator[tuple[int, str]]:
        """Cut a piece again whose tokens, truly counted, are more than the sum of its words'."""
        if tokens <= self.size or len(text) == 1:
            yield 0, text
            return
        smaller = self._length(text) * self.size // tokens  # less than the sum, so it is cut
        pieces = list(self._cut(text, suffix, smaller)) if smaller else []
        if len(pieces) < 2:  # noqa: PLR2004 - the sum says nothing about this text
            half = len(text) // 2
            pieces = [(0, text[:half]), (half, text[half:])]
        for (start, piece), count in zip(
            pieces, self._tokens([piece for _, piece in pieces]), strict=True
        ):
            for offset, part in self._fit(piece, suffix, count):
                yield start + offset, part

    def _splitter(self, suffix: str, size: int, overlap: int) -> Any:
        key = (suffix if suffix in _LANGUAGES or suffix == ".rst" else "", size)
        if key not in self._splitters:
            self._splitters[key] = self._library.RecursiveCharacterTextSplitter(
                separators=self._separators(key[0]),
                is_separator_regex=True,
                chunk_size=size,
                chunk_overlap=overlap,
                length_function=self._length,
            )
        return self._splitters[key]

    def _separators(self, suffix: str) -> list[str]:
        if suffix == ".rst":
            return [_RST_TITLE, *_PARAGRAPHS, *_SENTENCES, *_LAST]
        if suffix in _LANGUAGES:
            library = self._library.RecursiveCharacterTextSplitter
            return [*library.get_separators_for_language(_LANGUAGES[suffix])[:-1], *_LAST]
        return [*_PARAGRAPHS, *_SENTENCES, *_LAST]


def _suffix(document: Document) -> str:
    return PurePath(str(document.metadata.get("source", ""))).suffix.lower()


class _WordCounts:
    """Token counts as sums over words, each word counted once.

    The splitter asks for the length of every piece at every level. Tokenizing each of them gave
    1,000 chunks a second on the standard library's sources, sums of known words give 6,000.
    """

    # A word with the space before it: tokenizers cut there too, so that counts nearly add up.
    _WORD = re.compile(r"\s*\w{1,40}|\s*[^\s\w]{1,40}|\s+")
    _MOST = 500_000  # words kept, some 50 MB

    def __init__(self, count: Callable[[Sequence[str]], list[int]]) -> None:
        self._count = count
        self._known: dict[str, int] = {}
        self._lengths: dict[str, int] = {}
        self.special = count([""])[0]

    def exact(self, texts: Sequence[str]) -> list[int]:
        return [tokens - self.special for tokens in self._count(texts)] if texts else []

    def counts(self, texts: Sequence[str], *, trusted: int) -> list[int]:
        """Count texts: sums up to `trusted` are believed, as they are never wrong by half."""
        self.learn(texts)  # a chunk's first word has lost the space before it
        sums = [self.total(text) for text in texts]
        exact = iter(
            self.exact([t for t, total in zip(texts, sums, strict=True) if total > trusted])
        )
        return [next(exact) if total > trusted else total for total in sums]

    def learn(self, texts: Iterable[str]) -> None:
        """Count all words of `texts` that are not known yet, in one call."""
        if len(self._known) > self._MOST:
            self._known.clear()
        found = {word for text in texts for word in self._WORD.findall(text)}
        words = sorted(word for word in found if word not in self._known)
        self._known.update(zip(words, self.exact(words), strict=True))

    def forget_lengths(self) -> None:
        self._lengths.clear()

    def total(self, text: str) -> int:
        length = self._lengths.get(text)
        if length is None:
            words = self._WORD.findall(text)
            try:
                length = sum(map(self._known.__getitem__, words))
            except KeyError:  # a word that was cut
                self.learn([text])
                length = sum(map(self._known.__getitem__, words))
            self._lengths[text] = length
        return length
