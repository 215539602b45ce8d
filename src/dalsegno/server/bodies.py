"""Bytes in and out between the event loop and the threads that do the work. No body is ever in memory whole.

    Inlet    the loop fills it with a request's body; a thread iterates over it
    Outlet   a thread writes into it; the loop iterates over it
    pulled   the loop iterates over what a thread's generator yields
    Shares   how many such answers there may be at once

Each holds a few pieces; whoever is faster waits. When one side ends early the other is told.
"""

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

from dalsegno.server.limits import (
    BODY_IDLE_SECONDS,
    BODY_RATE_MIN,
    LEFTOVER_BYTES_MAX,
    LEFTOVER_SECONDS,
    STREAM_WAIT_SECONDS,
)
from dalsegno.terms.errors import BadInput, Unavailable
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.workers import Workers

PIECE_BYTES: Final = MIB
PIECE_BYTES_MIN: Final = 512 * KIB
PIECES_AHEAD: Final = 3

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class TooLarge(BadInput):
    """A body larger than its route allows."""


class TooSlow(Unavailable):
    """A client that sends, or takes, next to nothing."""


class Gone(Unavailable):
    """The client went away in the middle."""


class Body:
    """A request's body, with its limits of size and slowness."""

    def __init__(self, receive: Receive, *, declared: int | None, bytes_max: int) -> None:
        if declared is not None and bytes_max and declared > bytes_max:
            raise TooLarge(f"the body has {declared} bytes, more than the {bytes_max} allowed here")
        self._receive = receive
        self._bytes_max = bytes_max
        self.bytes_read = 0
        self.is_complete = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not self.is_complete:
            try:
                async with asyncio.timeout(BODY_IDLE_SECONDS):
                    message = await self._receive()
            except TimeoutError:
                raise TooSlow(f"no byte of the body arrived for {BODY_IDLE_SECONDS} s") from None
            if message["type"] == "http.disconnect":
                raise Gone("the client went away before its body was whole")
            piece: bytes = message.get("body", b"")
            self.bytes_read += len(piece)
            self.is_complete = not message.get("more_body", False)
            if self._bytes_max and self.bytes_read > self._bytes_max:
                raise TooLarge(f"the body has more than the {self._bytes_max} bytes allowed here")
            spent = loop.time() - started
            if not self.is_complete and spent > BODY_IDLE_SECONDS and self.bytes_read < spent * BODY_RATE_MIN:
                raise TooSlow(f"the body arrives slower than {BODY_RATE_MIN} bytes a second")
            if piece:
                yield piece

    async def whole(self) -> bytes:
        """Return the body whole; for small ones."""
        assert self._bytes_max
        buffer = bytearray()
        async for piece in self.pieces():
            buffer += piece
        return bytes(buffer)

    async def drop(self) -> bool:
        """Read what is left of a refused body, within reason, and return whether it ended."""
        left = LEFTOVER_BYTES_MAX
        try:
            async with asyncio.timeout(LEFTOVER_SECONDS):
                while not self.is_complete and left > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        return False
                    left -= len(message.get("body", b""))
                    self.is_complete = not message.get("more_body", False)
        except TimeoutError:
            pass
        return self.is_complete


class Shares:
    """Memory for answers that stream, in shares: who comes first goes first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = asyncio.Semaphore(count)
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[None]:
        """Take some shares, when there are so many; Unavailable after waiting long."""
        assert count <= self._count
        if not count:
            yield
            return
        held = 0
        try:
            try:
                async with asyncio.timeout(STREAM_WAIT_SECONDS), self._turn:
                    while held < count:
                        await self._free.acquire()
                        held += 1
            except TimeoutError:
                raise Unavailable("the server sends to as many as it can: try again") from None
            yield
        finally:
            for _ in range(held):
                self._free.release()


class Inlet:
    """A body on its way to a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(PIECES_AHEAD)

    async def fill(self, body: Body) -> None:
        """Pass the body on until its end; what goes wrong is raised in the thread."""
        buffer = bytearray()
        end: Exception | None = Unavailable("the server stops: the body was not read to its end")
        try:
            async for piece in body.pieces():
                buffer += piece
                if len(buffer) >= PIECE_BYTES:
                    await self._room.acquire()
                    self._pieces.put(bytes(buffer))
                    buffer.clear()
            end = None
        except Exception as error:
            end = error
        finally:
            if buffer:  # a body that is cut short is kept as far as it came
                self._pieces.put(bytes(buffer))
            self._pieces.put(end)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = self._pieces.get()
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            self._loop.call_soon_threadsafe(self._room.release)
            yield piece


async def feed(work: Callable[[Iterator[bytes]], Any], body: Body, crew: Workers) -> Any:
    """Run `work(pieces)` in a thread over a request's body."""
    inlet = Inlet()
    filling = asyncio.create_task(inlet.fill(body))
    try:
        return await asyncio.wrap_future(crew.submit(work, iter(inlet)))
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


class Outlet:
    """Bytes that a thread writes, on their way to a client."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(PIECES_AHEAD)
        self._buffer = bytearray()
        self._gone = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add bytes; waits while the client is slow."""
        self._buffer += data
        if len(self._buffer) >= PIECE_BYTES:
            self.flush()
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Pass on what is there."""
        if self._gone:
            raise Gone("the client went away")
        if self._buffer:
            asyncio.run_coroutine_threadsafe(self._pieces.put(bytes(self._buffer)), self._loop).result()
            self._buffer.clear()

    def _end(self, work: Callable[["Outlet"], Any]) -> None:
        try:
            work(self)
            self.flush()
        finally:
            asyncio.run_coroutine_threadsafe(self._pieces.put(b""), self._loop).result()

    async def run(self, work: Callable[["Outlet"], Any], crew: Workers) -> AsyncIterator[bytes]:
        """Run `work(self)` in a thread and yield what it writes; what it raises is raised here."""
        job = asyncio.wrap_future(crew.submit(self._end, work))
        try:
            while piece := await self._pieces.get():
                yield piece
            await job
        finally:
            self._gone = True
            while not job.done():  # let it go on as far as its next write, which tells it
                while not self._pieces.empty():
                    self._pieces.get_nowait()
                await asyncio.wait((job,), timeout=0.05)
            job.exception() if not job.cancelled() else None


async def pulled(iterator: Iterator[bytes], crew: Workers) -> AsyncIterator[bytes]:
    """Yield what an iterator yields, each step of it taken in a thread, small pieces joined."""
    job: asyncio.Future[bytes] | None = None
    try:
        while True:
            job = asyncio.wrap_future(crew.submit(_pull, iterator))
            piece = await asyncio.shield(job)
            if not piece:
                return
            yield piece
    finally:
        if job is not None and not job.done():  # nobody can close a generator that runs
            await asyncio.wait((job,))
        close = getattr(iterator, "close", None)
        if close is not None:
            await asyncio.shield(asyncio.wrap_future(crew.submit(close)))


def _pull(iterator: Iterator[bytes]) -> bytes:
    buffer = bytearray()
    for piece in iterator:
        if not buffer and len(piece) >= PIECE_BYTES_MIN:
            return piece
        buffer += piece
        if len(buffer) >= PIECE_BYTES_MIN:
            break
    return bytes(buffer)
