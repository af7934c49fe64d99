"""Completions of plain prompts as LangChain's generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from langchain_gpu.generators.base import Completion, Delta
from langchain_gpu.language_models.messages import end_metadata


def to_result(answers: Sequence[Completion], model: str, metadata: Mapping[str, Any]) -> LLMResult:
    """Return one generation per answer, and the tokens of all of them."""
    generations = [
        [Generation(text=answer.text, generation_info=_info(answer, metadata))]
        for answer in answers
    ]
    usages = [answer.usage for answer in answers if answer.usage is not None]
    output: dict[str, Any] = {"model_name": model}
    if len(usages) == len(answers):  # a server may not say
        given = sum(usage.input_tokens for usage in usages)
        written = sum(usage.output_tokens for usage in usages)
        output["token_usage"] = {
            "prompt_tokens": given,
            "completion_tokens": written,
            "total_tokens": given + written,
        }
    return LLMResult(generations=generations, llm_output=output)


def to_generation_chunk(delta: Delta, metadata: Mapping[str, Any]) -> GenerationChunk:
    """Return the next piece of an answer; only the last one carries usage and metadata."""
    info = _info(delta, metadata) if delta.finish_reason else None
    return GenerationChunk(text=delta.text, generation_info=info)


def _info(answer: Completion | Delta, metadata: Mapping[str, Any]) -> dict[str, Any]:
    info = end_metadata(answer.finish_reason, answer.timings, metadata)
    if answer.usage is not None:
        info["usage"] = asdict(answer.usage)
    if answer.logprobs:
        info["logprobs"] = {"content": [dict(each) for each in answer.logprobs]}
    return info


__all__ = ["to_generation_chunk", "to_result"]
