"""Chunks fit the window, keep their place, and lose nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_gpu.loaders import Chunker


class WordEmbedding(DeterministicFakeEmbedding):
    """A tokenizer as WordPiece is one: four letters a token, two special tokens around."""

    window: int | None = 34
    calls: int = 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.calls += 1
        return [2 + len(re.findall(r"\w{1,4}|[^\w\s]", text)) for text in texts]


class MergingEmbedding(WordEmbedding):
    """A tokenizer whose counts do not add up: what has no space costs twice as much together."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        words = [re.findall(r"\S+", text) for text in texts]
        return [2 + sum(len(w) * (2 if len(w) > 40 else 1) for w in found) for found in words]


class JoiningEmbedding(WordEmbedding):
    """Another: each space between two words costs a little more than the words alone."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [2 + len(text.split()) + len(re.findall(r"\S\s+\S", text)) // 5 for text in texts]


def check(chunker: Chunker, embedding: WordEmbedding | None, text: str, source: str) -> None:
    chunks = chunker.split([Document(text, metadata={"source": source, "page": 3})])
    end = 0
    for chunk in chunks:
        start, content = chunk.metadata["start"], chunk.page_content
        assert chunk.metadata == {"source": source, "page": 3, "start": start}
        assert text[start : start + len(content)] == content
        assert not text[end:start].strip(), "text was lost between two chunks"
        end = start + len(content)
        if embedding is not None:
            assert embedding.count_tokens([content])[0] <= chunker.size + 2 or len(content) == 1
        else:
            assert len(content) <= chunker.size
    assert not text[end:].strip()


TEXT = st.text(st.sampled_from("ab .,\n#=-`:{}\u3042\U0001f600\u00e9_\t"), max_size=600)


@settings(max_examples=150, deadline=None)
@given(TEXT, st.sampled_from([".md", ".py", ".rst", ".txt", ".html"]), st.integers(1, 32))
def test_chunks_fit_and_lose_nothing(text: str, suffix: str, size: int) -> None:
    embedding = WordEmbedding(size=3)
    check(Chunker(embedding, size=size, overlap=0), embedding, text, f"x{suffix}")
    check(Chunker(None, size=size, overlap=0), None, text, f"x{suffix}")


@settings(max_examples=100, deadline=None)
@given(TEXT, st.integers(1, 32), st.data())
def test_chunks_overlap_and_keep_their_place(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    chunks = Chunker(WordEmbedding(size=3), size=size, overlap=overlap).split([Document(text)])
    starts = [chunk.metadata["start"] for chunk in chunks]
    assert starts == sorted(set(starts))
    assert all(text.startswith(c.page_content, c.metadata["start"]) for c in chunks)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("ab \n"), max_size=900),
    st.sampled_from([MergingEmbedding, JoiningEmbedding]),
)
def test_a_tokenizer_whose_counts_do_not_add_up_is_obeyed(
    text: str, kind: type[WordEmbedding]
) -> None:
    embedding = kind(size=3)
    check(Chunker(embedding, overlap=0), embedding, text, "x.txt")


def test_sizes_follow_the_embedder() -> None:
    assert (Chunker(WordEmbedding(size=3)).size, Chunker(WordEmbedding(size=3)).overlap) == (32, 4)
    assert Chunker(WordEmbedding(size=3, window=8192)).size == 512
    assert Chunker(WordEmbedding(size=3, window=None)).size == 512
    assert Chunker(DeterministicFakeEmbedding(size=3)).size == Chunker().size == 1000


class RareEmbedding(WordEmbedding):
    """A character that the tokenizer does not know is four tokens, its bytes."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [2 + 4 * len(text) for text in texts]


def test_a_character_of_more_tokens_than_a_chunk_is_a_chunk() -> None:
    chunks = Chunker(RareEmbedding(size=3), size=2, overlap=0).split([Document("\U0001f600" * 3)])
    assert [chunk.page_content for chunk in chunks] == ["\U0001f600"] * 3


class JumpingEmbedding(WordEmbedding):
    """Words together cost far more than alone."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [2 + len(text) * (100 if re.search(r"\S\s", text) else 1) for text in texts]


def test_where_the_words_say_nothing_the_text_is_halved() -> None:
    chunks = Chunker(JumpingEmbedding(size=3), size=6, overlap=0).split([Document("ab cd")])
    assert "".join(chunk.page_content for chunk in chunks) == "ab cd"
    assert len(chunks) == 2


def test_a_window_of_tokens_nobody_counts_is_no_size() -> None:
    class Uncounted(DeterministicFakeEmbedding):
        window: int = 34

    assert Chunker(Uncounted(size=3)).size == 1000


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 32, which fills the model's window, not 33"):
        Chunker(WordEmbedding(size=3), size=33)
    with pytest.raises(ValueError, match="not 0"):
        Chunker(size=0)
    with pytest.raises(ValueError, match="below the chunk size 10, not 10"):
        Chunker(size=10, overlap=10)


def test_the_next_chunk_repeats_the_end_of_the_last() -> None:
    text = " ".join(f"w{i:03}" for i in range(100))
    first, second, *_ = Chunker(WordEmbedding(size=3), size=32, overlap=8).split([Document(text)])
    assert first.page_content.split()[-8:] == second.page_content.split()[:8]


def test_a_title_stays_with_its_section() -> None:
    body = "word " * 20  # so short that the next title would fit
    for suffix, titles in {
        ".md": ["# One", "## Two"],
        ".rst": ["One\n===", "Two\n---"],
        ".py": ["class One:", "def two():"],
    }.items():
        text = "".join(f"{title}\n\n{body}\n\n" for title in titles)
        chunks = Chunker(WordEmbedding(size=3)).split(
            [Document(text, metadata={"source": f"a{suffix}"})]
        )
        assert [c.page_content[: len(t)] for c, t in zip(chunks, titles, strict=True)] == titles


def test_words_are_counted_once_and_together() -> None:
    embedding = WordEmbedding(size=3)
    chunker = Chunker(embedding)
    documents = [Document(f"{i} alpha beta gamma " * 20) for i in range(50)]
    embedding.calls = 0
    assert len(chunker.split([*documents, Document("a short one")])) > 100
    assert embedding.calls == 3  # the words, the chunks' first words, the chunks


@pytest.mark.parametrize("text", ["x" * 200_000, "=" * 200_000, "ab" * 50_000 + "\n" * 100_000])
def test_a_giant_line_is_cut(text: str) -> None:
    embedding = WordEmbedding(size=3)
    check(Chunker(embedding, overlap=0), embedding, text, "x.json")
