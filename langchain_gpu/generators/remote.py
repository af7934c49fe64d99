"""Base of generators behind a server: concurrent chats, and streams that can be canceled."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol

from langchain_gpu.generators.base import Completion, Delta, Deltas, Request
from langchain_gpu.generators.options import Options
from langchain_gpu.generators.parallel import generate_all
from langchain_gpu.generators.pump import Stoppable
from langchain_gpu.generators.streams import Stage, Timer, through
from langchain_gpu.generators.toolcalls import Recovery
from langchain_gpu.generators.transport import InThread, OnLoop, Transport, handed_out
from langchain_gpu.hardware.devices import Device
from langchain_gpu.servers.client import Client
from langchain_gpu.servers.errors import ServerError
from langchain_gpu.utils.slots import SlotPool

Put = Callable[[Delta], Awaitable[object]]
Take = Callable[[Any], Awaitable[object]]
Answer = Callable[[Transport, float, Put], Coroutine[Any, Any, None]]
_End = Callable[[BaseException | None], object]


class Pieces(Protocol):
    """Reads one answer in a server's own form."""

    @property
    def begun(self) -> bool:
        """Whether a piece was given out: the answer cannot be asked for again."""

    @property
    def ended(self) -> bool:
        """Whether it is known why the answer ended: it is whole."""

    def read(self, item: Any, /) -> Delta | None:
        """Return what the next part of a stream adds to the answer; None if nothing."""


class RemoteGenerator(ABC):
    """A model behind a server, whatever is spoken there.

    Args:
        model: The server's name of the model.
        client: Reaches the server.
        options: `n_parallel` bounds the chats in flight.
        chats: As many where it is not given.
    """

    plain_prompts = True

    def __init__(self, model: str, client: Client, options: Options, chats: int) -> None:
        self._name = model
        self._client: Client = client
        self._options = options
        self._n_parallel = options.n_parallel or chats
        self._slots = SlotPool(self._n_parallel)
        # Nothing on the client's thread holds this object: dropping it ends the thread.
        weakref.finalize(self, client.close)

    @property
    def device(self) -> Device:
        """The server."""
        return self._client.device_of(self._name)

    @property
    def max_batch(self) -> int:
        """Chats in flight at the same time; more of them wait."""
        return self._n_parallel

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request, `max_batch` at a time."""
        return generate_all(self.stream, requests, width=self._n_parallel)

    @abstractmethod
    def stream(self, request: Request) -> Deltas:
        """Ask, and yield the answer piece by piece; closing the iterator ends it on the server."""

    def close(self) -> None:
        """End what is under way and close all connections."""
        self._client.close()

    def _started(self, request: Request, answer: Answer) -> Deltas:
        """Return an answer as a stream of its pieces, which asks when the first one is wanted.

        A thread that reads it asks by itself, where the client has connections for that; for a
        task, and for gRPC, the client's loop does.

        Args:
            request: What is asked.
            answer: Makes the coroutine that asks the server. It is given the transport, the
                seconds it may take, and where to put the pieces; what it raises comes out of the
                stream.

        Raises:
            RuntimeError: From the stream: the client is closed.
        """
        client, retries = self._client, self._options.server.max_retries
        seconds = request.timeout or self._options.server.timeout
        calls = self._reader(request)

        def begin(put: Callable[[Delta], object], end: _End) -> Callable[[], object]:
            read = through(Timer(), calls)

            async def pass_on(piece: Delta) -> None:
                if (whole := read(piece)) is not None:
                    put(whole)

            flight = client.start(answer(OnLoop(client, self._slots, retries), seconds, pass_on))
            flight.then(end)
            return flight.cancel

        if client.connections is None:
            return Stoppable(begin)
        transport = InThread(client, client.connections, self._slots, retries)

        def read_here() -> Generator[Delta, None, None]:
            read = through(Timer(), calls)

            async def pass_on(piece: Delta) -> None:
                if (whole := read(piece)) is not None:
                    await handed_out(whole)

            yield from transport.read(answer(transport, seconds, pass_on))

        return Stoppable(begin, here=(read_here(), transport.stop))

    def _reader(self, request: Request) -> Stage:
        """Return what finds the calls that the server itself has not found."""
        return Recovery(request.callable_tools)


async def put_all(pieces: Pieces, put: Put, stream: Callable[[Take], Awaitable[None]]) -> None:
    """Put what is read of a streamed answer, all but its last piece.

    Args:
        pieces: Reads it.
        put: Takes the pieces.
        stream: Asks the server, and hands every part of its stream on.

    Raises:
        ServerError: It broke off before the answer was whole.
    """

    async def take(item: Any) -> None:
        if (delta := pieces.read(item)) is not None:
            await put(delta)

    try:
        await stream(take)
    except ServerError as error:
        # What was handed out cannot be taken back; what has ended is whole.
        error.again = error.again and not pieces.begun
        if not pieces.ended:
            raise


__all__ = ["Answer", "Pieces", "Put", "RemoteGenerator", "Take", "put_all"]
