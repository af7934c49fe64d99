"""`create_rag_chain`: ask your documents, with anybody's retriever, reranker and chat model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage, convert_to_messages, get_buffer_string
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable

from langchain_gpu.events import ContextWarning
from langchain_gpu.leaving import LeavingPick, LeavingText
from langchain_gpu.whole import at_least_one

NOT_FOUND = "I could not find this in the documents."
"""The answer when nothing was retrieved: the model is not asked to invent one."""

# Short and plain, and the question on both sides of the documents: a model of 135 M parameters
# then answers half as many questions again, and large ones do not mind.
ANSWER_PROMPT = ChatPromptTemplate.from_messages(
    [
        (
            "system",
            (
                "You answer questions from documents. Use only the documents in the message. "
                "If they do not answer the question, say so."
            ),
        ),
        ("human", "Question: {input}\n\nDocuments:\n\n{context}\n\nQuestion: {input}"),
    ]
)
# Told alone, small models answer the question instead of rewriting it; shown once, they do it.
_REWRITE = (
    "Conversation:\n{chat_history}\nLast question: {input}\n\n"
    "Rewrite the last question so that it makes sense without the conversation."
)
_QUESTION_PROMPT = ChatPromptTemplate.from_messages(
    [
        (
            "human",
            _REWRITE.format(
                chat_history="Human: Who wrote Hamlet?\nAI: William Shakespeare wrote Hamlet.",
                input="When was he born?",
            ),
        ),
        ("ai", "When was William Shakespeare born?"),
        ("human", _REWRITE),
    ]
)
# Tokens kept free for the answer where the model names no limit of its own.
_ANSWER_TOKENS = 512
# A guess on the safe side for a model that cannot count: English has about four.
_CHARACTERS_PER_TOKEN = 3

_Model = Runnable[Any, Any]


def create_rag_chain(
    retriever: Runnable[str, list[Document]],
    llm: _Model,
    *,
    reranker: BaseDocumentCompressor | None = None,
    prompt: BasePromptTemplate[Any] | None = None,
    max_context_tokens: int | None = None,
) -> Runnable[str | dict[str, Any], dict[str, Any]]:
    """Return a chain that answers questions from what a retriever finds.

    Takes a question, or a dict with `input` and optionally `chat_history` (messages): with a
    history the model first rewrites the question to stand alone. Gives a dict with `input`,
    `context` (the documents the answer rests on, best first) and `answer`; streaming yields
    `input`, then `context`, then the answer piece by piece. Leaving the stream stops the model.

    Chunks go into the prompt best first, numbered and with their source. Those that do not fit the
    window any more are left out, with a `ContextWarning`. When nothing was retrieved the answer is
    `NOT_FOUND` and the model is not asked.

    Args:
        retriever: Any retriever, or anything that turns a question into documents.
        llm: Any chat model.
        reranker: Orders, and may shorten, what was retrieved.
        prompt: Template with `context` and `input`, and `chat_history` if it wants the messages.
        max_context_tokens: Most tokens of the prompt. None takes the model's `context_length` less
            its `max_tokens`, or sets no limit where it has no `context_length`. The model counts
            them if it can; else they are estimated as one for three characters.

    Raises:
        TypeError: One of them is something else, or max_context_tokens no whole number.
        ValueError: The prompt lacks a variable, or max_context_tokens is not positive.

    Example:
        ```python
        chain = create_rag_chain(store.as_retriever(), ChatGPU(model="model.gguf"))
        result = chain.invoke("What is a token budget?")
        result["answer"], result["context"][0].metadata["source"]
        ```
    """
    prompt = ANSWER_PROMPT if prompt is None else prompt
    _check_parts(retriever, llm, reranker, prompt)
    if missing := {"context", "input"} - {*prompt.input_variables, *prompt.optional_variables}:
        raise ValueError(f"the prompt lacks the variables {sorted(missing)}")
    if max_context_tokens is not None:
        at_least_one("max_context_tokens", max_context_tokens)
    window = _Window(llm, prompt, max_context_tokens)
    rewrite = RunnableLambda(window.cut_history) | _QUESTION_PROMPT | llm | LeavingText()
    question = RunnableBranch((itemgetter("chat_history"), rewrite), itemgetter("input"))
    find: Runnable[Any, Any] = RunnableLambda(_question) | retriever
    steps = RunnablePassthrough.assign(question=question) | RunnablePassthrough.assign(context=find)
    if reranker is not None:
        steps |= RunnablePassthrough.assign(context=_rerank(reranker))
    answer = RunnableBranch(
        (itemgetter("context"), RunnableLambda(_variables) | prompt | llm | LeavingText()),
        RunnableLambda(lambda _: NOT_FOUND),
    )
    chain = (
        RunnableLambda(_check_input)
        | steps
        | RunnablePassthrough.assign(context=RunnableLambda(window.cut_documents))
        | RunnablePassthrough.assign(answer=answer)
    )
    pick = LeavingPick(keys=["input", "context", "answer"])
    return (chain | pick).with_config(run_name="rag_chain")


def _check_parts(retriever: object, llm: object, reranker: object, prompt: object) -> None:
    runs = isinstance(retriever, Runnable) or callable(retriever)
    chats = isinstance(llm, Runnable) or callable(llm)
    sorts = reranker is None or hasattr(reranker, "compress_documents")
    for name, given, right, wanted in (
        ("retriever", retriever, runs, "a retriever"),
        ("llm", llm, chats, "a chat model"),
        ("reranker", reranker, sorts, "a BaseDocumentCompressor such as GPURerank"),
        ("prompt", prompt, isinstance(prompt, BasePromptTemplate), "a prompt template"),
    ):
        if not right:
            raise TypeError(f"{name} must be {wanted}, not {given!r}")


def format_documents(documents: Sequence[Document]) -> str:
    """Return the text that stands for `{context}`: numbered chunks with their source and page."""
    return "".join(_format(number, each) for number, each in enumerate(documents, 1)).rstrip()


def _format(number: int, document: Document) -> str:
    named = {name: document.metadata.get(name) for name in ("source", "page")}
    origin = ", ".join(f"{name}: {value}" for name, value in named.items() if value is not None)
    head = f"[{number}] ({origin})" if origin else f"[{number}]"
    return f"{head}\n{document.page_content}\n\n"


def _check_input(question: Any) -> dict[str, Any]:
    inputs = {"input": question} if isinstance(question, str) else question
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input"), str):
        raise TypeError("ask with a string, or with a dict whose 'input' is one")
    if not inputs["input"].strip():
        raise ValueError("the question is empty")
    return {**inputs, "chat_history": convert_to_messages(inputs.get("chat_history") or [])}


def _question(inputs: Mapping[str, Any]) -> str:
    """Return the question to search for: the rewritten one, unless the model wrote nothing."""
    rewritten: str = inputs["question"].strip()
    return rewritten or inputs["input"]


def _variables(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a prompt may ask for: the question as it was searched for, and all that was given."""
    context = format_documents(inputs["context"])
    return {**inputs, "input": _question(inputs), "context": context}


def _rerank(reranker: BaseDocumentCompressor) -> Runnable[Any, Any]:
    def rerank(inputs: Mapping[str, Any], config: RunnableConfig) -> Sequence[Document]:
        if not inputs["context"]:
            return []  # some rerankers refuse to rank nothing
        callbacks = config.get("callbacks")
        return reranker.compress_documents(inputs["context"], _question(inputs), callbacks)

    async def arerank(inputs: Mapping[str, Any], config: RunnableConfig) -> Sequence[Document]:
        if not inputs["context"]:
            return []
        callbacks = config.get("callbacks")
        return await reranker.acompress_documents(inputs["context"], _question(inputs), callbacks)

    return RunnableLambda(rerank, arerank)


class _Window:
    """How much of a history and of the retrieved chunks the model can read."""

    def __init__(
        self, llm: _Model, prompt: BasePromptTemplate[Any], max_context_tokens: int | None
    ) -> None:
        self._prompt = prompt
        self._limit = max_context_tokens
        self._settings: dict[str, Any] = {}
        while (inner := _inside(llm)) is not None:
            if isinstance(llm, RunnableBindingBase):
                self._settings = {**llm.kwargs, **self._settings}
            llm = inner
        self._llm = llm

    def cut_documents(self, inputs: Mapping[str, Any]) -> list[Document]:
        """Return the documents that fit, best first; a later one may fit where a longer did not.

        Raises:
            TypeError: The retriever gave something else than documents.
            ValueError: Not one of them fits.
        """
        documents = list(inputs["context"])
        for document in documents:
            if not isinstance(document, Document):
                raise TypeError(f"the retriever gave a {type(document).__name__}, not a Document")
        limit = self._prompt_tokens()
        if limit is None or not documents:
            return documents
        empty = self._prompt.invoke(_variables({**inputs, "context": []}))
        left = limit - self._count(empty.to_messages())
        kept: list[Document] = []
        dropped: list[Document] = []
        for document in documents:
            tokens = self._count(_format(len(kept) + 1, document))
            left -= tokens
            if left >= 0:
                kept.append(document)
            else:
                left += tokens
                dropped.append(document)
        if not kept:
            raise ValueError(
                f"none of the {len(dropped)} retrieved chunks fits the {limit} tokens the prompt "
                f"may have: make the chunks smaller, or the window larger"
            )
        if dropped:
            names = ", ".join(str(each.metadata.get("source", "?")) for each in dropped)
            warnings.warn(
                f"{len(dropped)} of {len(documents)} retrieved chunks do not fit the {limit} "
                f"tokens the prompt may have, and were left out: {names}",
                ContextWarning,
                stacklevel=2,
            )
        return kept

    def cut_history(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Return the conversation as text, its latest part where all of it is too long."""
        history: list[BaseMessage] = inputs["chat_history"]
        limit = self._prompt_tokens()
        while limit is not None and len(history) > 1 and self._count(history) > limit // 2:
            history = history[1:]
        return {"chat_history": get_buffer_string(history), "input": inputs["input"]}

    def _prompt_tokens(self) -> int | None:
        """Tokens a prompt may have; None where nobody knows."""
        if self._limit is not None:
            return self._limit
        try:
            window: int | None = getattr(self._llm, "context_length", None)
        except NotImplementedError:  # its server does not say
            window = None
        if window is None:
            return None
        asked: int | None = self._settings.get("max_tokens") or getattr(
            self._llm, "max_tokens", None
        )
        return window - (asked or min(_ANSWER_TOKENS, window // 4))

    def _count(self, text: str | list[BaseMessage]) -> int:
        """Tokens of a text or of messages, estimated where the model has no tokenizer of its own.

        LangChain's own default would fetch GPT-2's from the hub, and count in another language.
        """
        if isinstance(self._llm, BaseLanguageModel) and _can_count(self._llm):
            with contextlib.suppress(NotImplementedError):  # its server does not count
                if isinstance(text, str):
                    return self._llm.get_num_tokens(text)
                return self._llm.get_num_tokens_from_messages(text)
        text = text if isinstance(text, str) else get_buffer_string(text)
        return len(text) // _CHARACTERS_PER_TOKEN + 1


def _inside(llm: _Model) -> _Model | None:
    """Return what is bound, tried again, or asked first; None for a model itself."""
    if isinstance(llm, RunnableBindingBase):
        return llm.bound
    if isinstance(llm, RunnableWithFallbacks):
        return llm.runnable
    return llm.default if isinstance(llm, DynamicRunnable) else None


def _can_count(model: BaseLanguageModel[Any]) -> bool:
    own = type(model)
    return (
        model.custom_get_token_ids is not None
        or own.get_num_tokens is not BaseLanguageModel.get_num_tokens
        or own.get_token_ids is not BaseLanguageModel.get_token_ids
    )


__all__ = ["ANSWER_PROMPT", "NOT_FOUND", "create_rag_chain", "format_documents"]
