"""What of a conversation and of the documents fits the prompt, and how it is formatted."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage, HumanMessage, get_buffer_string
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable

from langchain_gpu.events import ContextWarning, users_line

# Tokens kept free for the answer where the model names no limit of its own.
_ANSWER_TOKENS = 512
# A guess on the safe side for a model that cannot count: English has about four.
_CHARACTERS_PER_TOKEN = 3

# More than a chat template writes around a prompt without tools.
_TEMPLATE_TOKENS = 256

_NAMED = 5  # sources that a warning names

Model = Runnable[Any, Any]
ResultT = TypeVar("ResultT")


def format_documents(documents: Sequence[Document]) -> str:
    """Return the text that stands for `{context}`: numbered chunks with their source and page."""
    return "".join(_format(number, each) for number, each in enumerate(documents, 1)).rstrip()


def _format(number: int, document: Document) -> str:
    named = {name: document.metadata.get(name) for name in ("source", "page")}
    origin = ", ".join(f"{name}: {value}" for name, value in named.items() if value is not None)
    head = f"[{number}] ({origin})" if origin else f"[{number}]"
    return f"{head}\n{document.page_content}\n\n"


def search_question(inputs: Mapping[str, Any]) -> str:
    """Return the question to search for: the rewritten one, unless the model wrote nothing."""
    rewritten: str = inputs["question"].strip()
    return rewritten or inputs["input"]


def variables(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a prompt may name: what was given, and the question as it was searched for."""
    context = format_documents(inputs["context"])
    return {**inputs, "input": search_question(inputs), "context": context}


@dataclass(frozen=True, slots=True)
class _Reader:
    """A model that may be asked, and what is bound to it."""

    llm: Model
    settings: Mapping[str, Any]

    def prompt_tokens(self) -> int | None:
        """Tokens a prompt may have; None where nobody knows."""
        try:
            window: int | None = getattr(self.llm, "context_length", None)
        except NotImplementedError:  # its server does not say
            window = None
        if window is None:
            return None
        asked: int | None = self.settings.get("max_tokens") or getattr(self.llm, "max_tokens", None)
        return window - (asked or min(_ANSWER_TOKENS, window // 4))

    def count(self, text: str | list[BaseMessage]) -> int:
        """Tokens of a text or of messages, estimated where the model has no tokenizer of its own.

        LangChain's own default would fetch GPT-2's from the hub, and count in another language.
        """
        least = 1
        if isinstance(self.llm, BaseLanguageModel) and _can_count(self.llm):
            try:
                if isinstance(text, str):
                    return self.llm.get_num_tokens(text)
                return self.llm.get_num_tokens_from_messages(text)
            except NotImplementedError:  # its server does not count
                pass
            except ContextOverflowError:  # or only what it can read
                least += getattr(self.llm, "context_length", None) or 0
        text = text if isinstance(text, str) else get_buffer_string(text)
        return max(len(text) // _CHARACTERS_PER_TOKEN + 1, least)


class ContextWindow:
    """How much of a history and of the retrieved chunks a model can read.

    Where there are fallbacks, what counts is the first model that tells, and has room.

    Args:
        llm: The model, or what is bound to one or falls back from one.
        prompt: Template of the prompt.
        max_context_tokens: Most tokens of the prompt; None asks the model.
    """

    def __init__(
        self, llm: Model, prompt: BasePromptTemplate[Any], max_context_tokens: int | None
    ) -> None:
        self._prompt = prompt
        self._limit = max_context_tokens
        self._handled: set[type[BaseException]] = set()
        self._readers = list(self._found(llm, {}))

    def _found(self, llm: Model, settings: Mapping[str, Any]) -> Iterator[_Reader]:
        """Yield the models in the order in which they are asked."""
        if isinstance(llm, RunnableBindingBase):
            yield from self._found(llm.bound, {**llm.kwargs, **settings})
        elif isinstance(llm, RunnableWithFallbacks):
            self._handled.update(llm.exceptions_to_handle)
            for each in llm.runnables:
                yield from self._found(each, settings)
        elif isinstance(llm, DynamicRunnable):
            yield from self._found(llm.default, settings)
        else:
            yield _Reader(llm, settings)

    def _by_first(self, cut: Callable[[_Reader, int | None], ResultT]) -> ResultT:
        """Cut by what the first model says whose error no fallback would handle."""
        first: BaseException | None = None
        for reader in self._readers:
            try:
                limit = reader.prompt_tokens() if self._limit is None else self._limit
                return cut(reader, limit)
            except tuple(self._handled) as error:
                first = first or error
        assert first is not None  # noqa: S101 - there is a reader
        raise first

    def cut_documents(self, inputs: Mapping[str, Any]) -> list[Document]:
        """Return the documents that fit, best first; a later one may fit where a longer did not.

        Raises:
            TypeError: The retriever gave something else than documents.
            ValueError: Not one of them fits.
        """
        documents = list(inputs["context"])
        for document in documents:
            if not isinstance(document, Document):
                raise TypeError(
                    f"the retriever returned a {type(document).__name__}, not a Document"
                )
        return self._by_first(partial(self._fitting, inputs, documents)) if documents else []

    def _fitting(
        self,
        inputs: Mapping[str, Any],
        documents: list[Document],
        reader: _Reader,
        limit: int | None,
    ) -> list[Document]:
        if limit is None:
            return documents
        if limit < 1:
            raise ValueError(
                "max_tokens is as long as the model's window, and leaves nothing of it to the "
                "prompt: lower max_tokens, or make the window larger"
            )
        empty = self._prompt.invoke(variables({**inputs, "context": []})).to_messages()
        sizes = [reader.count(_format(at, each)) for at, each in enumerate(documents, 1)]
        # A server may have to read the prompt to count it, and then reads it again to answer.
        if _at_most(empty) + sum(sizes) <= limit:
            return documents
        used = reader.count(empty)
        if used >= limit:
            raise ValueError(
                f"the question and the prompt around it have {used} tokens without any chunk, and "
                f"the prompt may have {limit}: ask a shorter question, or make the window larger"
            )
        kept, dropped = _split(documents, sizes, limit - used, reader)
        if not kept:
            raise ValueError(
                f"none of the {len(dropped)} retrieved chunks fits the {limit} tokens the prompt "
                f"may have: make the chunks smaller, or the window larger"
            )
        if dropped:
            sources = dict.fromkeys(str(each.metadata.get("source", "?")) for each in dropped)
            names = ", ".join(islice(sources, _NAMED)) + (", ..." if len(sources) > _NAMED else "")
            warnings.warn(
                f"{len(dropped)} of {len(documents)} retrieved chunks do not fit the {limit} "
                f"tokens the prompt may have, and were left out: {names}",
                ContextWarning,
                stacklevel=users_line(),
            )
        return kept

    def cut_history(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Return the conversation as text, its latest part where all of it is too long."""
        text = self._by_first(partial(_latest, inputs["chat_history"]))
        return {"chat_history": text, "input": inputs["input"]}


def _split(
    documents: Sequence[Document], sizes: Sequence[int], room: int, reader: _Reader
) -> tuple[list[Document], list[Document]]:
    """Return the documents that fit into `room` tokens together, taken in order, and the others.

    Args:
        documents: Best first.
        sizes: Tokens of each, as it would be numbered if none were left out.
        room: Tokens for all of them.
        reader: Counts those whose number has changed.
    """
    kept: list[Document] = []
    dropped: list[Document] = []
    for size, document in zip(sizes, documents, strict=True):
        tokens = reader.count(_format(len(kept) + 1, document)) if dropped else size
        if tokens <= room:
            room -= tokens
            kept.append(document)
        else:
            dropped.append(document)
    return kept, dropped


def _latest(history: list[BaseMessage], reader: _Reader, limit: int | None) -> str:
    if limit is not None:
        most, last = limit // 2, len(history) - 1
        # By bisection: each count reads all of its text, and may be a request to a server.
        # As the one message that it becomes: many templates refuse a chat that begins with an AI's.
        first = bisect_left(
            range(last),
            1,
            key=lambda at: reader.count([HumanMessage(get_buffer_string(history[at:]))]) <= most,
        )
        history = history[first:]
    text = get_buffer_string(history)
    if len(history) == 1 and limit is not None:  # of one that alone is too long, the end
        while text and (tokens := reader.count(text)) > limit // 2:
            text = text[len(text) - len(text) * limit // (2 * tokens + 1) :]
    return text


def _at_most(messages: list[BaseMessage]) -> int:
    """Return more tokens than messages have: a token is a byte at least."""
    return len(get_buffer_string(messages).encode(errors="replace")) + _TEMPLATE_TOKENS


def _can_count(model: BaseLanguageModel[Any]) -> bool:
    own = type(model)
    return (
        model.custom_get_token_ids is not None
        or own.get_num_tokens is not BaseLanguageModel.get_num_tokens
        or own.get_token_ids is not BaseLanguageModel.get_token_ids
    )


__all__ = ["ContextWindow", "Model", "format_documents", "search_question", "variables"]
