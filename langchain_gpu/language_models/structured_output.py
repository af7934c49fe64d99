"""Tool calling and structured output of chat models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import (
    BaseOutputParser,
    JsonOutputKeyToolsParser,
    JsonOutputParser,
    PydanticOutputParser,
    PydanticToolsParser,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap
from langchain_core.tools import BaseTool
from langchain_core.utils.json import parse_json_markdown
from langchain_core.utils.pydantic import TBaseModel, is_basemodel_subclass

from langchain_gpu.language_models.messages import response_format
from langchain_gpu.language_models.schemas import to_json_schema, to_tool, to_tool_choice

_METHODS = ("function_calling", "json_mode", "json_schema")
_DECODER = json.JSONDecoder(strict=False)


class StructuredChat(BaseChatModel):
    """What a chat model is bound to, so that it calls tools or writes what fits a schema."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools; its chat template must know them.

        A call that was cut is listed under `invalid_tool_calls`. In a stream its arguments end
        with a bracket that closes nothing: LangChain would complete them, and a tool would be run.

        Args:
            tools: Anything LangChain can turn into a tool definition.
            tool_choice: `"auto"`, `"none"`, `"any"` (or True) for any one of them, or a tool's
                name. In this process a forced call is enforced by a grammar; a server enforces it
                in its own way, or says that it cannot.
            strict: Ask for schemas in OpenAI's strict form.
            **kwargs: Bound as they are.
        """
        formatted = [to_tool(tool, strict=strict) for tool in tools]
        choice = to_tool_choice(tool_choice)
        return super().bind(tools=formatted, tool_choice=choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,  # noqa: ARG002 - see below
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable whose answers are instances of `schema`.

        Args:
            schema: Pydantic class, TypedDict or JSON schema; None only for `"json_mode"`.
            method: `"json_schema"` enforces the schema with a grammar and works with any model,
                here and behind a server; `"function_calling"` needs a model that knows tools;
                `"json_mode"` enforces JSON.
            include_raw: Give `{"raw", "parsed", "parsing_error"}` instead of raising.
            strict: For interchangeability: a grammar is always strict.
            **kwargs: None are known.

        Raises:
            ValueError: No schema where one is needed, or an unknown method or argument.

        The runnable raises OutputParserException for an answer that is not of the schema or calls
        nothing, or that `max_tokens`, the window, a stop string or a filter cut before it was
        whole. A stream gives what there is so far, and raises at its end.
        """
        if kwargs:
            raise ValueError(f"with_structured_output knows no argument {', '.join(kwargs)}")
        if method not in _METHODS:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(_METHODS)}")
        if schema is None and method != "json_mode":
            raise ValueError(f"method={method!r} needs a schema")
        said = {"kwargs": {"method": method}, "schema": schema}
        if method == "function_calling" and schema is not None:
            if isinstance(schema, dict):
                schema = {"title": "answer", **to_json_schema(schema)}
            calling = self.bind_tools([schema], tool_choice="any", ls_structured_output_format=said)
            return _parsed(calling, _call_parser(schema), include_raw=include_raw)
        bound = self.bind(
            response_format=response_format(schema, method), ls_structured_output_format=said
        )
        return structured(bound, schema, include_raw=include_raw)


def structured(answer: Runnable[Any, Any], schema: Any, *, include_raw: bool) -> Runnable[Any, Any]:
    """Parse `answer`, a chat model bound to a JSON format, into `schema`.

    Args:
        answer: Gives messages whose text is JSON.
        schema: A pydantic class gives instances of it; anything else a dict.
        include_raw: Give `{"raw", "parsed", "parsing_error"}` instead of raising.

    The runnable raises OutputParserException for text that is not of the schema, or was cut.
    """
    parser: BaseOutputParser[Any] = _Json()
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        parser = _Pydantic(pydantic_object=schema)
    return _parsed(answer, parser, include_raw=include_raw)


def _parsed(
    answer: Runnable[Any, Any], parser: BaseOutputParser[Any], *, include_raw: bool
) -> Runnable[Any, Any]:
    if not include_raw:
        return answer | parser

    # A function: in a stream, what LangChain falls back to comes too late for a parser that raises.
    def report(said: dict[str, Any]) -> dict[str, Any]:
        try:
            return {**said, "parsed": parser.invoke(said["raw"]), "parsing_error": None}
        except Exception as error:  # noqa: BLE001 - the caller asked for all
            return {**said, "parsed": None, "parsing_error": error}

    return RunnableMap(raw=answer) | report


def _call_parser(schema: Any) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return _PydanticCall(tools=[schema], first_tool_only=True)
    return _JsonCall(key_name=to_tool(schema)["function"]["name"], first_tool_only=True)


class _Json(JsonOutputParser):
    """JSON to a dict; LangChain's own would complete what was cut, and nobody would know."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse a whole answer, or as much of it as there is."""
        partial = partial and not _ended(result)
        if not partial:
            _check_whole(result)
        return super().parse_result(result, partial=partial)


class _Pydantic(PydanticOutputParser[TBaseModel]):
    """JSON to an instance; see `_Json`."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse a whole answer, or as much of it as there is."""
        partial = partial and not _ended(result)
        if not partial:
            _check_whole(result)
        return super().parse_result(result, partial=partial)


class _JsonCall(JsonOutputKeyToolsParser):
    """A call to a dict; LangChain's own gives None where there is no whole call."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse a whole answer, or as much of it as there is."""
        partial = partial and not _ended(result)
        parsed = super().parse_result(_answered(result), partial=partial)
        return parsed if partial else _called(parsed, result)


class _PydanticCall(PydanticToolsParser):
    """A call to an instance; see `_JsonCall`."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse a whole answer, or as much of it as there is."""
        partial = partial and not _ended(result)
        try:
            parsed = super().parse_result(_answered(result), partial=partial)
        except OutputParserException:
            raise
        except ValueError as error:  # pydantic's own
            raise OutputParserException(f"the call does not match the schema: {error}") from error
        return parsed if partial else _called(parsed, result)


def _ended(result: Sequence[Generation]) -> bool:
    """Whether the answer is whole, or the stream of it at its end."""
    answer = result[0]
    return isinstance(answer, ChatGeneration) and _reason(answer) is not None


def _reason(answer: ChatGeneration) -> str | None:
    reason: str | None = answer.message.response_metadata.get("finish_reason")
    return reason


def _answered(result: list[Generation]) -> list[Generation]:
    """Give an answer its kind back, which LangChain takes from one that a stream gives whole."""
    answer = result[0]
    if not isinstance(answer, ChatGeneration) or isinstance(answer.message, AIMessage):
        return result
    return [ChatGeneration(message=AIMessage(**answer.message.model_dump()))]


def _check_whole(result: Sequence[Generation]) -> None:
    answer = result[0]
    try:
        # Words behind the JSON do no harm: LangChain reads past them.
        parse_json_markdown(answer.text.strip(), parser=_DECODER.raw_decode)
    except ValueError:
        raise _unfinished(answer, "JSON") from None


def _called(parsed: Any, result: Sequence[Generation]) -> Any:
    if parsed is None:
        raise _unfinished(result[0], "call")
    return parsed


def _unfinished(answer: Generation, what: str) -> OutputParserException:
    text, reason = answer.text, None
    if isinstance(answer, ChatGeneration):
        reason = _reason(answer)
        broken = getattr(answer.message, "invalid_tool_calls", None)
        text = (broken[0]["args"] or "") if broken else text
    if reason == "length":
        after = f", after {len(answer.text):,} characters" if answer.text else ""
        return OutputParserException(
            f"the answer was cut before its {what} was whole{after}: give a larger max_tokens, "
            f"a larger n_ctx, or a smaller schema",
            llm_output=text,
        )
    return OutputParserException(
        f"the answer holds no whole {what}; it ended with {reason!r}, which may be a stop string "
        f"or a filter: {text}",
        llm_output=text,
    )


__all__ = ["StructuredChat", "structured"]
