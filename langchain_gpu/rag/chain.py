"""`create_rag_chain`: ask your documents, with anybody's retriever, reranker and chat model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NotRequired

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import AnyMessage, convert_to_messages
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
)
from typing_extensions import TypedDict

from langchain_gpu.rag.cancellation import ClosingPick, ClosingText
from langchain_gpu.rag.context import (
    ContextWindow,
    Model,
    search_question,
    variables,
)
from langchain_gpu.utils.integers import at_least_one

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
# With an instruction alone small models answer the question instead of rewriting it; with one
# example they rewrite it.
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


class RagInput(TypedDict):
    """A question, and the conversation before it."""

    input: str
    chat_history: NotRequired[list[AnyMessage]]


class RagOutput(TypedDict):
    """The answer, and the documents it rests on, best first."""

    input: str
    context: list[Document]
    answer: str


def create_rag_chain(
    retriever: Runnable[str, list[Document]],
    llm: Model,
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
    window = ContextWindow(llm, prompt, max_context_tokens)
    rewrite = RunnableLambda(window.cut_history) | _QUESTION_PROMPT | llm | ClosingText()
    question = RunnableBranch((itemgetter("chat_history"), rewrite), itemgetter("input"))
    find: Runnable[Any, Any] = RunnableLambda(search_question) | retriever
    steps = RunnablePassthrough.assign(question=question) | RunnablePassthrough.assign(context=find)
    if reranker is not None:
        steps |= RunnablePassthrough.assign(context=_rerank(reranker))
    answer = RunnableBranch(
        (itemgetter("context"), RunnableLambda(variables) | prompt | llm | ClosingText()),
        RunnableLambda(lambda _: NOT_FOUND),
    )
    fitting = _typed(RunnableLambda(window.cut_documents), output_type=list[Document])
    chain = (
        RunnableLambda(_check_input)
        | steps
        | RunnablePassthrough.assign(context=fitting)
        | RunnablePassthrough.assign(answer=answer)
    )
    pick = ClosingPick(keys=["input", "context", "answer"])
    whole = (chain | pick).with_config(run_name="rag_chain")
    return _typed(whole, input_type=str | RagInput, output_type=RagOutput)


def _typed(
    step: Runnable[Any, Any], *, input_type: Any = None, output_type: Any
) -> Runnable[Any, Any]:
    """Say what a step takes and gives, for what draws and serves chains by their schemas."""
    return step.with_types(input_type=input_type, output_type=output_type)


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


def _check_input(question: Any) -> dict[str, Any]:
    inputs = {"input": question} if isinstance(question, str) else question
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input"), str):
        raise TypeError("ask with a string, or with a dict whose 'input' is one")
    if not inputs["input"].strip():
        raise ValueError("the question is empty")
    history = inputs.get("chat_history") or []
    if isinstance(history, (str, Mapping)):  # LangChain would make a message of each letter or key
        raise TypeError(
            f"'chat_history' is a list of messages, not a {type(history).__name__}: "
            "[('human', ...), ('ai', ...)]"
        )
    return {**inputs, "chat_history": convert_to_messages(history)}


def _rerank(reranker: BaseDocumentCompressor) -> Runnable[Any, Any]:
    def rerank(inputs: Mapping[str, Any], config: RunnableConfig) -> Sequence[Document]:
        if not inputs["context"]:
            return []  # some rerankers refuse to rank nothing
        callbacks = config.get("callbacks")
        return reranker.compress_documents(inputs["context"], search_question(inputs), callbacks)

    async def arerank(inputs: Mapping[str, Any], config: RunnableConfig) -> Sequence[Document]:
        if not inputs["context"]:
            return []
        callbacks = config.get("callbacks")
        return await reranker.acompress_documents(
            inputs["context"], search_question(inputs), callbacks
        )

    return _typed(RunnableLambda(rerank, arerank), output_type=Sequence[Document])


__all__ = ["ANSWER_PROMPT", "NOT_FOUND", "create_rag_chain"]
