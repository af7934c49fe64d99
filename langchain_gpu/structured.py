"""Answers of a chat model to instances of a schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import (
    BaseOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import TBaseModel, is_basemodel_subclass


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


__all__ = ["structured"]
