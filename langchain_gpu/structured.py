"""A chat model that calls tools, and whose answers become instances of a schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import (
    BaseOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.pydantic import TBaseModel, is_basemodel_subclass

from langchain_gpu.messages import response_format
from langchain_gpu.schemas import to_tool, to_tool_choice


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
        strict: bool | None = None,
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

        The runnable raises OutputParserException for an answer that is not of the schema, or that
        `max_tokens` or the window cut before it was whole.
        """
        if kwargs:
            raise ValueError(f"with_structured_output knows no argument {', '.join(kwargs)}")
        if method not in ("json_schema", "function_calling", "json_mode"):
            raise ValueError(f"unknown method {method!r}")
        if schema is None and method != "json_mode":
            raise ValueError(f"method={method!r} needs a schema")
        if method == "function_calling" and schema is not None:
            return super().with_structured_output(schema, include_raw=include_raw, strict=strict)
        bound = self.bind(
            response_format=response_format(schema, method),
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
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
    if not include_raw:
        return answer | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    unparsed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=answer) | parsed.with_fallbacks(
        [unparsed], exception_key="parsing_error"
    )


class _Json(JsonOutputParser):
    """JSON to a dict; LangChain's own would complete what was cut, and nobody would know."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse a whole answer, or as much of it as there is."""
        _check_whole(result)
        return super().parse_result(result, partial=partial)


class _Pydantic(PydanticOutputParser[TBaseModel]):
    """JSON to an instance; see `_Json`."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """Parse a whole answer, or as much of it as there is."""
        _check_whole(result)
        return super().parse_result(result, partial=partial)


def _check_whole(result: Sequence[Generation]) -> None:
    answer = result[0]
    if not isinstance(answer, ChatGeneration):
        return
    if answer.message.response_metadata.get("finish_reason") != "length":
        return
    try:
        json.loads(answer.text)
    except ValueError:
        raise OutputParserException(
            f"the answer was cut before its JSON was whole, after {len(answer.text):,} characters: "
            f"give a larger max_tokens, a larger n_ctx, or a smaller schema",
            llm_output=answer.text,
        ) from None


__all__ = ["StructuredChat", "structured"]
