"""GGUF embedders through llama.cpp, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from langchain_gpu.engine.encoder import Pending, Tokenized, Vectors, done
from langchain_gpu.engine.llama_cpp_model import LlamaBatch, LlamaCppModel, LlamaRows, tokenized
from langchain_gpu.engine.tasks.embed import (
    EmbedOptions,
    TextTokenizer,
    TextTooLongError,
    check_surrogates,
    check_texts,
)
from langchain_gpu.engine.tasks.token_rows import flat_ids
from langchain_gpu.llama.errors import LlamaError

_NAMED = 10  # texts of a batch that an error names
_CHARACTERS_PER_TOKEN = 64  # far above any language's average

Ids = list[int]


class LlamaCppEncoder(LlamaCppModel):
    """An embedder in a GGUF file; see `LlamaCppModel`. Its vectors have unit length."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens included, nothing cut off."""
        return [len(self._wrap(ids)) for ids in self._ids(texts, 0)]

    def tokenize(self, items: Sequence[str], options: EmbedOptions, *, start: int = 0) -> Tokenized:
        """See `Encoder.tokenize`.

        Raises:
            TextTooLongError: A text exceeds the window and the policy is `"error"`.
        """
        room = self._window - len(self._before) - len(self._after)
        limit = room if options.on_long == "truncate" else None
        check_texts(items, start=start)
        rows, owners, truncated = [], [], []
        for item, ids in enumerate(
            self._ids([options.prompt + text for text in items], start, limit)
        ):
            if not ids and not self._before and not self._after:
                raise ValueError(f"text {start + item} has no tokens, and this model adds none")
            if len(ids) > room and options.on_long == "error":
                raise TextTooLongError(
                    f"text {start + item} is longer than the model's window of {self.window} "
                    f"tokens; split it, or choose on_long='truncate' or 'mean'"
                )
            pieces = [ids[at : at + room] for at in range(0, max(1, len(ids)), room)]
            if len(pieces) > 1 and options.on_long == "truncate":
                pieces = pieces[:1]
                truncated.append(item)
            rows += [self._wrap(piece) for piece in pieces]
            owners += [item] * len(pieces)
        lengths = [len(row) for row in rows]
        windowed = owners if len(owners) > len(items) else None
        return tokenized(LlamaRows(rows, start), lengths, windowed, truncated)

    def from_ids(self, rows: Sequence[Sequence[int]], *, start: int = 0) -> Tokenized:
        """See `TextEncoder.from_ids`."""
        vocabulary = int(self._open.facts["n_vocab"])
        _, lengths = flat_ids(rows, window=self._window, vocabulary=vocabulary, start=start)
        ids = [[int(each) for each in row] for row in rows]
        return tokenized(LlamaRows(ids, start), lengths)

    def forward(self, features: LlamaBatch) -> Pending:
        """See `Encoder.forward`."""
        try:
            return done(self._open.embed(features.rows))
        except LlamaError as error:
            items = ", ".join(map(str, features.items[:_NAMED]))
            more = ", ..." if len(features.items) > _NAMED else ""
            raise error.at(f"in a batch of the texts {items}{more}") from error

    def merge(self, tokens: Tokenized, vectors: Vectors) -> Vectors:
        """See `Encoder.merge`."""
        return TextTokenizer.merge(tokens, vectors)

    def _look(self) -> int:
        """Learn what the model wants around a text; return the width of its vectors."""
        self._before, self._after = self._special_tokens()
        probe = [self._wrap(self._open.tokenize("a"))]
        try:
            return int(self._open.embed(probe).shape[1])
        except LlamaError as error:
            said = str(error.details.get("message"))
            if "Pooling type 'none'" not in said:
                raise
            message = (
                f"{self._path.name} does not say how to pool tokens, as is usual for a chat model. "
                "If it is an embedder, pass the pooling that its authors use ('mean', 'cls' or "
                "'last'): model_kwargs={'pooling': 'mean'}"
            )
            raise LlamaError({**error.details, "message": message}) from error

    def _special_tokens(self) -> tuple[Ids, Ids]:
        """Return what the model wants before and after a text."""
        plain, whole = self._open.tokenize("a"), self._open.tokenize("a", special=True)
        for at in range(len(whole) - len(plain) + 1):
            if whole[at : at + len(plain)] == plain:
                return whole[:at], whole[at + len(plain) :]
        raise ValueError(f"{self._path.name} tokenizes a text in a way that cannot be cut")

    def _wrap(self, ids: Ids) -> Ids:
        return [*self._before, *ids, *self._after]

    def _ids(self, texts: Sequence[str], start: int, limit: int | None = None) -> Iterable[Ids]:
        """Yield the ids of each text without special tokens; no more than needed of a huge one."""
        server = self._open
        check_texts(texts, start=start)
        check_surrogates(texts, start=start)
        for text in texts:
            if limit is not None and len(text) > _CHARACTERS_PER_TOKEN * limit:
                # Up to a space the tokens do not depend on what follows.
                end = text.rfind(" ", 0, _CHARACTERS_PER_TOKEN * limit)
                head = server.tokenize(text[:end]) if end > 0 else []
                if len(head) > limit:
                    yield head
                    continue
            yield server.tokenize(text)
