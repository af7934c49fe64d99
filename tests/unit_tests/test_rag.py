"""`create_rag_chain` with LangChain's own fakes: anybody's retriever, reranker and chat model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModelError
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from pydantic import Field

from langchain_gpu import ChatGPU, create_rag_chain
from langchain_gpu.events import ContextWarning
from langchain_gpu.rag import NOT_FOUND, format_documents
from langchain_gpu.rag.cancellation import ClosingPick

MOON = Document("Neil Armstrong was the first human on the Moon.", metadata={"source": "moon.md"})
LAUNCH = Document(
    "Apollo 11 was launched in Florida.", metadata={"source": "apollo.pdf", "page": 3}
)


class Shelf(BaseRetriever):
    """Gives the same documents for every question, and remembers the questions."""

    documents: list[Document]
    asked: list[str] = Field(default_factory=list)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        self.asked.append(query)
        return self.documents


class Model(BaseChatModel):
    """Gives its answers in turn, and remembers what it was asked. A word is a token."""

    answers: list[str]
    heard: list[list[BaseMessage]] = Field(default_factory=list)
    context_length: int | None = None
    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "remembering"

    def get_token_ids(self, text: str) -> list[int]:
        return [0] * len(text.split())

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = self.answers[len(self.heard) % len(self.answers)]
        self.heard.append(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])

    @property
    def prompt(self) -> str:
        return str(self.heard[-1][-1].content)


class Backwards(BaseDocumentCompressor):
    """Turns the order around and keeps one."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        assert query == "Who?"
        return list(documents)[::-1][:1]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(documents=[MOON, LAUNCH], asked=[])


@pytest.fixture
def model() -> Model:
    return Model(answers=["Neil Armstrong."], heard=[])


WHOLE = {"input": "Who?", "context": [MOON, LAUNCH], "answer": "Neil Armstrong."}


async def test_every_way_to_ask_gives_question_context_and_answer(
    shelf: Shelf, model: Model
) -> None:
    chain = create_rag_chain(shelf, model)
    assert chain.invoke("Who?") == WHOLE
    assert chain.invoke({"input": "Who?"}) == WHOLE
    assert await chain.ainvoke("Who?") == WHOLE
    assert chain.batch(["Who?", {"input": "Who?"}]) == [WHOLE, WHOLE]
    assert set(shelf.asked) == {"Who?"}


async def test_streaming_gives_the_context_before_the_answer_piece_by_piece(shelf: Shelf) -> None:
    chain = create_rag_chain(shelf, FakeListChatModel(responses=["Neil."]))
    chunks = list(chain.stream("Who?"))
    assert chunks[:2] == [{"input": "Who?"}, {"context": [MOON, LAUNCH]}]
    assert all(list(chunk) == ["answer"] for chunk in chunks[2:])
    pieces = [chunk["answer"] for chunk in chunks[2:] if chunk["answer"]]
    assert pieces == list("Neil.")
    achunks = [chunk async for chunk in chain.astream("Who?")]
    assert achunks == chunks


class Endless(FakeListChatModel):
    """Writes until it is stopped, or until it is clear that nobody will."""

    written: int = 0
    writing: int = 0  # answers

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        self.writing += 1
        try:
            for _number in range(1000):
                self.written += 1
                yield ChatGenerationChunk(message=AIMessageChunk("word "))
        finally:
            self.writing -= 1


@pytest.fixture(params=["dropped", "held"])
def steps_of_the_middle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody closes those: they are dropped, or held by a traceback (always in Python 3.13)."""
    held: list[Any] = []
    transform = RunnableParallel.transform

    def holding(*args: Any, **kwargs: Any) -> Any:
        held.append(transform(*args, **kwargs))
        return held[-1]

    if request.param == "held":
        monkeypatch.setattr(RunnableParallel, "transform", holding)


@pytest.mark.usefixtures("steps_of_the_middle")
@pytest.mark.parametrize("history", [[], [HumanMessage("Who was first?")]])
def test_leaving_a_stream_stops_the_model(history: list[BaseMessage], shelf: Shelf) -> None:
    model = Endless(responses=["Who?"])
    stream = create_rag_chain(shelf, model).stream({"input": "Who?", "chat_history": history})
    first = next(part["answer"] for part in stream if part.get("answer"))
    before = model.written
    assert model.writing == 1
    assert isinstance(stream, Generator)
    stream.close()
    assert first == "word "
    assert model.writing == 0
    assert model.written <= before + 1


@pytest.mark.usefixtures("steps_of_the_middle")
def test_leaving_a_stream_stops_the_model_of_a_chain_in_a_chain(shelf: Shelf) -> None:
    model = Endless(responses=["Who?"])
    chain = RunnablePassthrough.assign(said=create_rag_chain(shelf, model))
    stream = (chain | ClosingPick(keys=["said"])).stream({"input": "Who?"})
    next(part for part in stream if part["said"].get("answer"))
    assert isinstance(stream, Generator)
    stream.close()
    assert model.writing == 0


def test_an_error_of_the_model_comes_through_its_stream(shelf: Shelf) -> None:
    model = FakeListChatModel(responses=["Neil."], error_on_chunk_number=2)
    stream = create_rag_chain(shelf, model).stream("Who?")
    with pytest.raises(FakeListChatModelError):
        list(stream)


def test_chunks_are_numbered_and_name_their_source(shelf: Shelf, model: Model) -> None:
    create_rag_chain(shelf, model).invoke("Who?")
    assert "[1] (source: moon.md)\nNeil Armstrong was" in model.prompt
    assert "[2] (source: apollo.pdf, page: 3)\nApollo 11 was" in model.prompt
    assert model.prompt.endswith("Question: Who?")
    assert format_documents([Document("bare")]) == "[1]\nbare"


def test_nothing_found_is_said_and_the_model_is_not_asked(model: Model) -> None:
    chain = create_rag_chain(Shelf(documents=[]), model)
    assert chain.invoke("Who?") == {"input": "Who?", "context": [], "answer": NOT_FOUND}
    assert "".join(chunk.get("answer", "") for chunk in chain.stream("Who?")) == NOT_FOUND
    assert model.heard == []


async def test_a_reranker_orders_what_the_answer_rests_on(shelf: Shelf, model: Model) -> None:
    chain = create_rag_chain(shelf, model, reranker=Backwards())
    assert chain.invoke("Who?")["context"] == [LAUNCH]
    assert (await chain.ainvoke("Who?"))["context"] == [LAUNCH]
    assert "Neil Armstrong was" not in model.prompt


def test_anything_that_finds_documents_is_a_retriever(model: Model) -> None:
    find: RunnableLambda[str, list[Document]] = RunnableLambda(lambda _: [MOON])
    assert create_rag_chain(find, model).invoke("Who?")["context"] == [MOON]
    find_texts: Any = RunnableLambda(lambda _: ["a text"])
    with pytest.raises(TypeError, match="returned a str, not a Document"):
        create_rag_chain(find_texts, model).invoke("Who?")


@pytest.mark.parametrize(
    "history",
    [
        [HumanMessage("Who was first?"), AIMessage("Neil.")],
        [("human", "Who was first?"), ("ai", "Neil.")],
    ],
)
def test_with_a_history_the_question_is_rewritten_first(history: Any, shelf: Shelf) -> None:
    model = Model(answers=[" When was Neil first?\n", "In 1969."], heard=[])
    chain = create_rag_chain(shelf, model)
    result = chain.invoke({"input": "When?", "chat_history": history})
    assert shelf.asked == ["When was Neil first?"]
    assert (result["input"], result["answer"]) == ("When?", "In 1969.")
    assert "Human: Who was first?\nAI: Neil." in str(model.heard[0][-1].content)
    assert "When was Neil first?" in model.prompt


def test_a_model_that_rewrites_to_nothing_leaves_the_question_as_it_is(shelf: Shelf) -> None:
    model = Model(answers=["  ", "In 1969."], heard=[])
    history = [("human", "Who was first?"), ("ai", "Neil.")]
    create_rag_chain(shelf, model).invoke({"input": "When?", "chat_history": history})
    assert shelf.asked == ["When?"]


def test_an_empty_history_is_no_history(shelf: Shelf, model: Model) -> None:
    create_rag_chain(shelf, model).invoke({"input": "Who?", "chat_history": []})
    assert len(model.heard) == 1


def test_of_a_history_too_long_the_latest_part_is_read(shelf: Shelf) -> None:
    model = Model(answers=["When?", "In 1969."], heard=[])
    history = [("human", f"{number} " * 50) for number in range(10)]
    chain = create_rag_chain(shelf, model, max_context_tokens=250)
    chain.invoke({"input": "When?", "chat_history": history})
    told = str(model.heard[0][-1].content)
    assert "9 9" in told
    assert "8 8" in told
    assert "7 7" not in told


class Counter(Model):
    """Notes how often it was asked to count a conversation."""

    counted: list[int] = Field(default_factory=list)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], *_: Any) -> int:
        self.counted.append(len(messages))
        return sum(len(str(message.content).split()) for message in messages)


@pytest.mark.parametrize("kept", [1, 2, 7, 150, 199, 200])
def test_a_long_history_is_counted_a_few_times(kept: int, shelf: Shelf) -> None:
    model = Counter(answers=["When?", "In 1969."])
    history = [("human", f"<{number}> " * 10) for number in range(200)]
    chain = create_rag_chain(shelf, model, max_context_tokens=22 * kept + 110)
    chain.invoke({"input": "When?", "chat_history": history})
    told = str(model.heard[0][-1].content)
    assert [f"<{n}>" in told for n in range(200)].count(True) == min(kept + 5, 200)
    assert f"<{max(0, 195 - kept)}>" in told
    assert len(model.counted) <= 12


class Alternating(Counter):
    """Its template refuses chats of which a model's answer is the first message, as Mistral's."""

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], *_: Any) -> int:
        if messages[0].type == "ai":
            raise ValueError("conversation roles must alternate user/assistant/...")
        return super().get_num_tokens_from_messages(messages)


@pytest.mark.parametrize("limit", [120, 1000])
def test_a_history_is_counted_where_a_chat_must_begin_with_the_user(
    limit: int, shelf: Shelf
) -> None:
    model = Alternating(answers=["When?", "In 1969."])
    turns = [("human", f"<{number}> " * 10) for number in range(10)]
    history = [message for turn in turns for message in (turn, ("ai", "yes"))]
    chain = create_rag_chain(shelf, model, max_context_tokens=limit)
    assert chain.invoke({"input": "When?", "chat_history": history})["answer"] == "In 1969."
    told = str(model.heard[0][-1].content)
    assert "<9>" in told
    assert ("<0>" in told) == (limit == 1000)


def test_of_a_last_message_too_long_the_end_is_read(shelf: Shelf) -> None:
    model = Model(answers=["When?", "In 1969."], heard=[])
    chain = create_rag_chain(shelf, model, max_context_tokens=250)
    words = " ".join(str(number) for number in range(1000))
    chain.invoke({"input": "When?", "chat_history": [("human", "Count."), ("ai", words)]})
    told = str(model.heard[0][-1].content)
    assert " 998 999\n" in told
    assert len(told.split()) < 250
    assert " 850 " not in told


def test_a_prompt_that_surely_fits_is_not_counted_by_the_model(shelf: Shelf) -> None:
    model = Counter(answers=["In 1969."])
    chain = create_rag_chain(shelf, model, max_context_tokens=1000)
    assert chain.invoke("When?")["context"] == [MOON, LAUNCH]
    assert model.counted == []
    # Bytes, not characters: a character may be several tokens.
    chain.invoke("\u6708" * 150)
    assert model.counted != []


LONG = Document("word " * 200, metadata={"source": "long.txt"})


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda model: model.with_retry(),
        lambda model: model.bind(stop=["."]).with_retry().with_config(tags=["x"]),
        lambda model: model.with_fallbacks([Model(answers=["y"])]),
        lambda model: model.configurable_fields(max_tokens=ConfigurableField(id="most")),
    ],
)
def test_the_window_of_a_wrapped_model_is_known(wrapped: Callable[[Any], Any]) -> None:
    llm = wrapped(Model(answers=["x"], context_length=134))
    chain = create_rag_chain(Shelf(documents=[MOON, LONG, LAUNCH]), llm)
    with pytest.warns(ContextWarning, match=r"1 of 3 retrieved chunks.*long\.txt"):
        assert chain.invoke("When?")["answer"] == "x"


class Server(Model):
    """Counts what it can read, and no texts without a chat."""

    def get_num_tokens(self, text: str) -> int:
        raise NotImplementedError

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], *_: Any) -> int:
        tokens = sum(len(str(message.content).split()) for message in messages)
        if self.context_length is not None and tokens > self.context_length:
            raise ContextOverflowError
        return tokens


def test_a_history_that_a_server_cannot_count_is_cut_too() -> None:
    model = Server(answers=["When?", "x"], context_length=400)
    chain = create_rag_chain(Shelf(documents=[MOON]), model)
    for history in ([("ai", "a " * 1000)], [("human", "a " * 300), ("ai", "b " * 300)]):
        assert chain.invoke({"input": "When?", "chat_history": history})["answer"] == "x"
    with pytest.raises(ValueError, match=r"the question .* have \d+ tokens without any chunk"):
        chain.invoke("a " * 1000)


class Characters(Server):
    """Takes each character for a token, as models do with languages they hardly know."""

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], *_: Any) -> int:
        spaced = " ".join("".join(str(each.content) for each in messages).replace(" ", "_"))
        return super().get_num_tokens_from_messages([HumanMessage(spaced)])


def test_what_a_server_cannot_even_read_does_not_fit_whatever_an_estimate_says() -> None:
    chain = create_rag_chain(
        Shelf(documents=[MOON]), Characters(answers=["x"], context_length=2000)
    )
    with pytest.raises(ValueError, match=r"the question .* have 2001 tokens without any chunk"):
        chain.invoke("\u6708" * 2500)


class Gone(BaseChatModel):
    """Behind a server that is not there: it can be asked nothing."""

    @property
    def _llm_type(self) -> str:
        return "gone"

    @property
    def context_length(self) -> int:
        raise ConnectionError("nobody there")

    def get_token_ids(self, text: str) -> list[int]:
        raise ConnectionError("nobody there")

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise ConnectionError("nobody there")


@pytest.mark.parametrize("limit", [None, 100])
async def test_where_the_first_model_is_gone_the_window_of_its_fallback_counts(
    limit: int | None,
) -> None:
    local = Model(answers=["x"], context_length=134)
    llm = Gone().bind(stop=["."]).with_fallbacks([local.bind(stop=["."])])
    shelf = Shelf(documents=[MOON, LONG, LAUNCH])
    chain = create_rag_chain(shelf, llm, max_context_tokens=limit)
    asked = {"input": "When?", "chat_history": [("human", "Count."), ("ai", "word " * 200)]}
    with pytest.warns(ContextWarning, match=r"1 of 3 retrieved chunks.*long\.txt"):
        assert chain.invoke(asked)["answer"] == "x"
    with pytest.warns(ContextWarning):
        assert (await chain.ainvoke(asked))["context"] == [MOON, LAUNCH]


def test_errors_that_no_fallback_handles_come_out(shelf: Shelf) -> None:
    local = Model(answers=["x"], context_length=134)
    both = Gone().with_fallbacks([local], exceptions_to_handle=(ValueError,))
    for llm in (Gone(), both, Gone().with_fallbacks([])):
        with pytest.raises(ConnectionError, match="nobody there"):
            create_rag_chain(shelf, llm).invoke("When?")


def test_a_larger_fallback_is_given_what_the_first_has_no_room_for() -> None:
    class Small(Model):
        def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
            raise ValueError("the prompt is too long")

    small = Small(answers=["y"], context_length=80)
    both = small.with_fallbacks([Model(answers=["x"], context_length=1000)])
    shelf = Shelf(documents=[LONG])
    assert create_rag_chain(shelf, both).invoke("When?")["answer"] == "x"
    with pytest.raises(ValueError, match="none of the 1 retrieved chunks fits the 60 tokens"):
        create_rag_chain(shelf, small.with_fallbacks([small])).invoke("When?")


def test_a_question_that_leaves_no_room_is_named(model: Model) -> None:
    chain = create_rag_chain(Shelf(documents=[MOON]), model, max_context_tokens=100)
    with pytest.raises(ValueError, match=r"the question .* have 4\d\d tokens without any chunk"):
        chain.invoke("Who? " * 200)


@pytest.mark.parametrize("most", [400, 500])
def test_an_answer_as_long_as_the_window_is_named(most: int) -> None:
    model = Model(answers=["x"], context_length=400, max_tokens=most)
    with pytest.raises(ValueError, match="lower max_tokens"):
        create_rag_chain(Shelf(documents=[MOON]), model).invoke("Who?")


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        ({"max_context_tokens": 100}, {}),
        ({"context_length": 150, "max_tokens": 50}, {}),
        ({"context_length": 150}, {"max_tokens": 50}),
        ({"context_length": 134}, {}),
    ],
)
def test_chunks_that_do_not_fit_are_left_out_and_named(
    limits: dict[str, int], bound: dict[str, int]
) -> None:
    asked = limits.get("max_context_tokens")
    limits = {name: value for name, value in limits.items() if name != "max_context_tokens"}
    model: Any = Model(answers=["x"], heard=[], **limits)
    shelf = Shelf(documents=[MOON, LONG, LAUNCH])
    llm = model.bind(**bound) if bound else model
    chain = create_rag_chain(shelf, llm, max_context_tokens=asked)
    with pytest.warns(ContextWarning, match=r"1 of 3 retrieved chunks.*long\.txt"):
        result = chain.invoke("Who?")
    assert result["context"] == [MOON, LAUNCH]
    assert "word" not in model.prompt
    assert "[2] (source: apollo.pdf" in model.prompt
    assert len(model.get_token_ids(model.prompt)) <= 100


def test_of_many_chunks_left_out_a_few_sources_are_named_once(model: Model) -> None:
    many = [Document("word " * 200, metadata={"source": f"{n // 2}.md"}) for n in range(5000)]
    chain = create_rag_chain(Shelf(documents=[MOON, *many]), model, max_context_tokens=100)
    with pytest.warns(ContextWarning) as told:
        chain.invoke("Who?")
    message = str(told[0].message)
    assert message.startswith("5000 of 5001 retrieved chunks")
    assert message.endswith("left out: 0.md, 1.md, 2.md, 3.md, 4.md, ...")


def test_when_nothing_fits_an_error_says_so(model: Model) -> None:
    chain = create_rag_chain(Shelf(documents=[LONG]), model, max_context_tokens=60)
    with pytest.raises(ValueError, match="none of the 1 retrieved chunks fits the 60 tokens"):
        chain.invoke("Who?")


def test_a_model_that_cannot_count_is_estimated() -> None:
    model = FakeListChatModel(responses=["x"])
    chain = create_rag_chain(Shelf(documents=[MOON, LONG]), model, max_context_tokens=200)
    with pytest.warns(ContextWarning):
        assert chain.invoke("Who?")["context"] == [MOON]


def test_without_any_limit_everything_goes_in(model: Model) -> None:
    chain = create_rag_chain(Shelf(documents=[LONG] * 20), model)
    assert len(chain.invoke("Who?")["context"]) == 20


def test_a_prompt_of_ones_own(shelf: Shelf, model: Model) -> None:
    text = PromptTemplate.from_template("{context}\n---\n{input} ({tone})")
    create_rag_chain(shelf, model, prompt=text).invoke({"input": "Who?", "tone": "kindly"})
    assert model.prompt.endswith("---\nWho? (kindly)")
    talk = ChatPromptTemplate.from_messages(
        [("placeholder", "{chat_history}"), ("human", "{context} {input}")]
    )
    chain = create_rag_chain(shelf, model, prompt=talk)
    chain.invoke({"input": "Who?", "chat_history": [("human", "Hello"), ("ai", "Hi")]})
    assert [message.type for message in model.heard[-1]] == ["human", "ai", "human"]
    chain.invoke("Who?")
    assert [message.type for message in model.heard[-1]] == ["human"]


@pytest.mark.parametrize(
    ("build", "error", "named"),
    [
        (
            lambda: {"prompt": PromptTemplate.from_template("{question}")},
            ValueError,
            r"\['context', 'input'\]",
        ),
        (lambda: {"prompt": PromptTemplate.from_template("{context}")}, ValueError, r"\['input'\]"),
        (lambda: {"max_context_tokens": 0}, ValueError, "max_context_tokens"),
    ],
)
def test_a_wrong_build_is_named(
    build: Callable[[], dict[str, Any]], error: type[Exception], named: str, model: Model
) -> None:
    with pytest.raises(error, match=named):
        create_rag_chain(Shelf(documents=[]), model, **build())


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (None, TypeError),
        (7, TypeError),
        ({"question": "x"}, TypeError),
        (" \n", ValueError),
        ({"input": "x", "chat_history": "Human: hi"}, TypeError),
        ({"input": "x", "chat_history": {"role": "user", "content": "hi"}}, TypeError),
    ],
)
async def test_what_is_no_question_is_named(
    question: Any, error: type[Exception], shelf: Shelf, model: Model
) -> None:
    chain = create_rag_chain(shelf, model)
    with pytest.raises(error):
        chain.invoke(question)
    with pytest.raises(error):
        await chain.ainvoke(question)
    with pytest.raises(error):
        list(chain.stream(question))


@pytest.mark.parametrize("reranker", [None, Backwards()])
def test_it_can_be_drawn_and_served_by_its_schemas(
    shelf: Shelf, model: Model, reranker: Backwards | None
) -> None:
    chain = create_rag_chain(shelf, model, reranker=reranker)
    question = chain.get_input_jsonschema()
    assert {"type": "string"} in question["anyOf"]
    (named,) = (each["$ref"].split("/")[-1] for each in question["anyOf"] if "$ref" in each)
    assert question["$defs"][named]["required"] == ["input"]
    assert "chat_history" in question["$defs"][named]["properties"]
    answer = chain.get_output_jsonschema()
    fields = answer["$defs"][answer["$ref"].split("/")[-1]]["properties"]
    assert list(fields) == ["input", "context", "answer"]
    assert chain.get_graph().to_json(with_schemas=True)["nodes"]


@pytest.mark.models
def test_a_real_model_answers_from_the_documents(shelf: Shelf) -> None:
    with ChatGPU(
        model="HuggingFaceTB/SmolLM2-135M-Instruct",
        device="cpu",
        n_ctx=512,
        n_parallel=1,
        n_threads=1,
        temperature=0,
        max_tokens=24,
    ) as llm:
        chain = create_rag_chain(shelf, llm)
        assert "Armstrong" in chain.invoke("Who was the first human on the Moon?")["answer"]
        shelf.documents = [MOON, LONG, LONG, LAUNCH]
        with pytest.warns(ContextWarning, match="488 tokens"):
            assert chain.invoke("Who was first?")["context"] == [MOON, LONG, LAUNCH]
