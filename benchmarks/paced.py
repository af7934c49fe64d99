"""A server that answers at a steady pace, whatever it is asked: what is late is its client.

python -m benchmarks.paced PORT TOKENS FIRST PACE

It speaks as much of OpenAI's form and of Ollama's as chats need. A process of its own, so that the
CPU time of the client is the client's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

_MODEL = "bench"
_LOADED = {"name": f"{_MODEL}:latest", "model": f"{_MODEL}:latest", "size": 1, "size_vram": 0}
_INFO = {"general.architecture": "llama", "llama.context_length": 4096, "llama.block_count": 1}
_AT_HAND: dict[str, Any] = {
    "/v1/models": {"data": [{"id": _MODEL, "owned_by": "vllm", "max_model_len": 4096}]},
    "/api/version": {"version": "0"},
    "/api/tags": {"models": [_LOADED]},
    "/api/ps": {"models": [_LOADED | {"context_length": 4096}]},
    "/api/show": {"model_info": _INFO, "capabilities": ["completion"]},
}


def _event(choices: list[Any], **more: Any) -> bytes:
    chunk = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": _MODEL}
    return b"data: " + json.dumps({**chunk, "choices": choices, **more}).encode() + b"\n\n"


def _by_openai(text: str, tokens: int) -> bytes:
    if text:
        return _event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])
    counts = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    end = _event([{"index": 0, "delta": {}, "finish_reason": "length"}])
    return end + _event([], usage=counts) + b"data: [DONE]\n\n"


def _by_ollama(text: str, tokens: int) -> bytes:
    line = {"model": _MODEL, "created_at": "2026-01-01T00:00:00Z"}
    message = {"message": {"role": "assistant", "content": text}, "done": not text}
    counts = {"prompt_eval_count": 9, "eval_count": tokens, "load_duration": 1}
    end = {} if text else {"done_reason": "length", **counts}
    return json.dumps({**line, **message, **end}).encode() + b"\n"


_FORMS = {
    "/v1/chat/completions": ("text/event-stream", _by_openai),
    "/api/chat": ("application/x-ndjson", _by_ollama),
}


class Paced:
    """Answers requests.

    Args:
        tokens: Of an answer.
        first: Seconds from the request to the first one.
        pace: Seconds from one to the next.
    """

    def __init__(self, tokens: int, first: float, pace: float) -> None:
        self._tokens = tokens
        self._first = first
        self._pace = pace

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes in on one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                came = asyncio.get_running_loop().time()
                sizes = [line[15:] for line in head.split("\r\n") if line[:15] == "content-length:"]
                body = json.loads(await reader.readexactly(int(sizes[0]))) if sizes else {}
                path = head.split(" ", 2)[1]
                if path in _FORMS and body.get("messages"):
                    kind, form = _FORMS[path]
                    writer.write(_head(kind, "transfer-encoding: chunked"))
                    async for part in self._parts(form, came):
                        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                    writer.write(b"0\r\n\r\n")
                else:
                    answer = json.dumps(_AT_HAND.get(path, {"done": True})).encode()
                    writer.write(_head("application/json", f"content-length: {len(answer)}"))
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _parts(self, form: Callable[[str, int], bytes], came: float) -> AsyncIterator[bytes]:
        now = asyncio.get_running_loop().time
        for place in range(self._tokens):
            await asyncio.sleep(came + self._first + place * self._pace - now())
            yield form(f" word{place}", self._tokens)
        yield form("", self._tokens)


def _head(kind: str, length: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{length}\r\n\r\n".encode()


async def _main(port: int, tokens: int, first: float, pace: float) -> None:
    paced = Paced(tokens, first, pace)
    server = await asyncio.start_server(paced.serve, "127.0.0.1", port, backlog=256)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
