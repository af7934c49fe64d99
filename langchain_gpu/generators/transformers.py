"""Safetensors and GGUF models through Hugging Face transformers.

Chats share forwards by padded batches of `generate`; for those that come late a batch is left, and
read again with them. transformers also has continuous batching (`generate_batch`), where nothing is
read again; without a flash attention kernel it computes attention over the tokens of all chats for
every chat, and was 1.3 to 2 times slower on a CPU. It has one seed and one way to sample for all,
and ends with the first error, memory included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from langchain_gpu.generators.base import (
    Completion,
    Delta,
    Deltas,
    Message,
    PromptTooLongError,
    Request,
)
from langchain_gpu.generators.cancel_group import current_group
from langchain_gpu.generators.hf_formats import Formats
from langchain_gpu.generators.hf_model import HFModel
from langchain_gpu.generators.hf_shared import shared_model
from langchain_gpu.generators.hf_template import Template
from langchain_gpu.generators.options import Options, check_transformers
from langchain_gpu.generators.parallel import placed
from langchain_gpu.generators.placement import place_model
from langchain_gpu.generators.pump import Stoppable
from langchain_gpu.generators.rows import Row
from langchain_gpu.generators.sampling import Rules
from langchain_gpu.generators.streams import Timer, through
from langchain_gpu.hardware.devices import Device

_BATCH = 16


class TransformersGenerator:
    """One model on one device. Chats that come while others run join them where there is room.

    They join once the batch has run several times as long as it takes to read all its tokens again.

    Args:
        path: Folder with config.json, tokenizer files and safetensors weights, or a `.gguf` file,
            whose weights are unpacked.
        options: `n_parallel` is 16 chats a batch unless given; `n_ctx` lowers the model's window;
            `load` goes to `from_pretrained`, and `compile=True` there has `generate` compile its
            steps over a cache of fixed size.

    Raises:
        DeviceNotFoundError: The device is not here and `fallback="error"`.
        ImportError: The checkpoint is quantized by a library that is not installed.
        ValueError: Unknown dtype, an option of another engine, or pickled weights.
    """

    plain_prompts = True

    def __init__(self, path: Path, options: Options) -> None:
        check_transformers(options)
        self._options = options
        self._hf: HFModel | None
        self._hf, self._let_go = shared_model(
            self, path, place_model(options), self.max_batch, options
        )
        self._formats = Formats(self._hf)
        self._template = Template(str(path), self._hf.tokenizer, self._hf.tokenizer_lock)

    @property
    def device(self) -> Device:
        """Where it runs now, with the reason."""
        return self._open.device

    @property
    def context_length(self) -> int:
        """Tokens of one chat, prompt and answer together."""
        known = [size for size in (self._open.window, self._options.n_ctx) if size]
        if not known:
            raise ValueError("the model names no window of its own: set n_ctx")
        return min(known)

    @property
    def max_batch(self) -> int:
        """Chats that share one forward."""
        return self._options.n_parallel or _BATCH

    def expect(self, count: int, width: int) -> AbstractContextManager[None]:
        """Announce `count` chats, `width` of them at a time: a batch waits a moment for them."""
        return self._open.rows.expect(count, width)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request, `max_batch` of them in one forward.

        Raises:
            PromptTooLongError: A prompt does not fit the window.
            TimeoutError: An answer was not complete in time, or a chat template does not end.
        """
        rows = []
        for at, request in enumerate(requests):
            with placed(at, requests):
                rows.append(self._row(request))

        def cancel() -> None:
            for row in rows:
                row.cancel()

        with current_group().waiting(cancel):
            self._open.rows.submit(rows)
            try:
                answers = [row.wait() for row in rows]
            except BaseException:
                cancel()
                raise
        return [
            self._formats.with_calls(answer, request, row) if request.callable_tools else answer
            for request, row, answer in zip(requests, rows, answers, strict=True)
        ]

    def stream(self, request: Request) -> Deltas:
        """Yield the answer piece by piece; closing the iterator stops the generation.

        Raises:
            PromptTooLongError: The prompt does not fit the window.
            TimeoutError: The answer was not complete in time.
        """

        def begin(
            put: Callable[[Delta], object], end: Callable[[BaseException | None], object]
        ) -> Callable[[], object]:
            row = self._row(request)
            read = through(Timer(), self._formats.reader(request, row))

            def listen(piece: Delta | None) -> None:
                if piece is None:
                    end(row.problem)
                    return
                try:
                    if (whole := read(piece)) is not None:
                        put(whole)
                except Exception as error:  # noqa: BLE001  not for the others of its batch
                    row.fail(error)

            row.listener = listen
            self._open.rows.submit([row])
            return row.cancel

        return Stoppable(begin, timeout=request.timeout, slow=True)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a plain text, without special tokens."""
        hf = self._open
        with hf.tokenizer_lock:
            ids: list[int] = hf.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def count_chat_tokens(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> int:
        """Tokens of the prompt that a chat becomes, template included."""
        return len(self._chat(messages, tools))

    def close(self) -> None:
        """Let go of the model; it is freed with the last generator that uses it."""
        self._hf = None
        self._let_go()

    @property
    def _open(self) -> HFModel:
        if self._hf is None:
            raise RuntimeError("this generator is closed")
        return self._hf

    def _row(self, request: Request) -> Row:
        hf = self._open  # and not what is open later: a row may outlive its generator

        def decode(ids: Sequence[int]) -> str:
            text: str = hf.tokenizer.decode(ids, skip_special_tokens=True)
            return text

        prompt = self._prompt(request)
        room = self.context_length - len(prompt)
        if room < 1:
            raise PromptTooLongError(len(prompt), self.context_length)
        return Row(
            request,
            prompt,
            limit=min(room, request.max_tokens or room),
            ends=hf.ends,
            decode=decode,
            rules=Rules(
                request,
                hf.generation_config,
                ends=hf.ends,
                decode=decode,
                grammar=self._formats.grammar(request),
            ),
        )

    def _prompt(self, request: Request) -> list[int]:
        if request.prompt is None:
            return self._chat(request.messages, request.tools, request.timeout)
        hf = self._open
        with hf.tokenizer_lock:
            ids: list[int] = hf.tokenizer.encode(request.prompt)
        if not ids:
            raise ValueError("the prompt has no tokens: there is nothing to continue")
        return ids

    def _chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        timeout: float | None = None,
    ) -> list[int]:
        if not self._open.tokenizer.chat_template:
            raise ValueError(
                "the model has no chat template: it is a base model; take its instruction-tuned "
                "one, or GPULLM, which goes on with plain prompts"
            )
        whole = self._template.apply(messages, tools, timeout=timeout, return_dict=True)
        ids: list[int] = whole["input_ids"]
        return ids


__all__ = ["TransformersGenerator"]
