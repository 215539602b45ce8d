"""Bytes in and out between the event loop and the threads that do the work. No body is ever in memory whole.

    feed     the loop collects pieces of a request's body; a thread takes each
    Outlet   a thread writes into it; the loop iterates over it
    pulled   the loop iterates over what a thread's generator yields

Each holds a few pieces; whoever is faster waits. When one side ends early the other is told. However slowly a body
comes, it holds no thread: one is wanted when a piece is there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, MutableMapping
from typing import Any, Final, TypeVar

from dalsegno.server.limits import (
    BODY_IDLE_SECONDS,
    LEFTOVER_BYTES_MAX,
    LEFTOVER_SECONDS,
    RATE_MIN,
    WANTED_RATE_MIN,
)
from dalsegno.server.turns import Pace
from dalsegno.terms.errors import BadInput, DalError, Unavailable
from dalsegno.terms.sizes import KIB
from dalsegno.world.files import file_errors
from dalsegno.world.workers import Workers, new_lock

PIECE_BYTES: Final = 512 * KIB
PIECES_AHEAD: Final = 2
SENT_BYTES: Final = 256 * KIB
"""Given to a connection at once: it keeps what its client has not taken."""
TAKEN_BYTES: Final = 512 * KIB
"""A thread is taken when so much of a body is there."""

T = TypeVar("T")
Taking = Generator[None, bytes, T]
"""Takes the pieces of a body, an empty one at its end, and returns what became of it."""
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class TooLarge(BadInput):
    """A body larger than its route allows."""


class TooSlow(Unavailable):
    """A client that sends, or takes, next to nothing."""


class Gone(Unavailable):
    """The client went away in the middle."""


def check_pace(pace: Pace, is_wanted: Callable[[], bool]) -> None:
    """Raise TooSlow for who is slow; somebody waiting for his place is a reason to ask for more."""
    for least, matters in ((RATE_MIN, True), (WANTED_RATE_MIN, False)):
        if pace.is_below(least) and (matters or is_wanted()):
            raise TooSlow(f"slower than {least} bytes a second" + ("" if matters else ", while others wait"))


def _nobody_waits() -> bool:
    return False


class Body:
    """A request's body, with its limits of size and slowness."""

    def __init__(self, receive: Receive, *, declared: int | None, bytes_max: int) -> None:
        if declared is not None and bytes_max and declared > bytes_max:
            raise TooLarge(f"the body has {declared} bytes, more than the {bytes_max} allowed here")
        self._receive = receive
        self._bytes_max = bytes_max
        self.bytes_most = bytes_max if declared is None else declared
        """It has no more; 0: as many as it likes."""
        self.bytes_read = 0
        self.is_complete = False
        self.is_wanted: Callable[[], bool] = _nobody_waits
        """Whether somebody waits for the place that the body holds."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        loop = asyncio.get_running_loop()
        pace = Pace()
        while not self.is_complete:
            asked = loop.time()
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
            pace.note(len(piece), seconds=loop.time() - asked)
            if piece:
                yield piece
            if not self.is_complete:
                check_pace(pace, self.is_wanted)

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


class _Steps:
    """A generator that takes a body, one step at a time, in whatever thread."""

    def __init__(self, taking: Taking[Any]) -> None:
        self._taking = taking
        self._lock = new_lock()
        self.has_ended = False
        self.value: Any = None

    def take(self, piece: bytes | None) -> None:
        """Go on with the next piece; None begins. Once it has ended it takes no more."""
        with self._lock:
            if self.has_ended:
                return
            try:
                with file_errors("the server's disk"):
                    self._taking.send(piece)  # type: ignore[arg-type]
            except StopIteration as end:
                self.has_ended, self.value = True, end.value
            except BaseException:
                self.has_ended = True
                raise

    def give_up(self, rest: bytes, error: Exception) -> None:
        """End before the body did; what came of it is kept."""
        with contextlib.suppress(DalError):
            if rest:
                self.take(rest)
        with self._lock:
            if not self.has_ended:
                self.has_ended = True
                with contextlib.suppress(type(error), StopIteration, DalError):
                    self._taking.throw(error)


async def feed(taking: Taking[T], body: Body, crew: Workers) -> T:
    """Have a generator take a request's body, each piece of it in a thread, and return what it returns."""
    steps = _Steps(taking)
    buffer = bytearray()
    running = crew.submit(steps.take, None)
    try:
        await asyncio.wrap_future(running)  # what is refused at once is not read first
        async for piece in body.pieces():
            buffer += piece
            if len(buffer) >= TAKEN_BYTES:
                await asyncio.wrap_future(running)
                if steps.has_ended:  # it needs no more
                    break
                running = crew.submit(steps.take, bytes(buffer))
                buffer.clear()
        await asyncio.wrap_future(running)
        rest = bytes(buffer)
        buffer.clear()
        if rest:
            await asyncio.wrap_future(crew.submit(steps.take, rest))
        await asyncio.wrap_future(crew.submit(steps.take, b""))
        found: T = steps.value
        return found
    except BaseException as error:
        cause = error if isinstance(error, Exception) else Unavailable("the server stops")
        ended = crew.submit(steps.give_up, bytes(buffer), cause)  # behind the step that runs
        if isinstance(error, Exception):
            await asyncio.wrap_future(ended)
        raise


class Outlet:
    """Bytes that a thread writes, on their way to a client."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(PIECES_AHEAD)
        self._buffer = bytearray()
        self._gone = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add bytes; waits while the client is slow."""
        view = memoryview(data)
        for start in range(0, view.nbytes, PIECE_BYTES):
            self._buffer += view[start : start + PIECE_BYTES]
            if len(self._buffer) >= PIECE_BYTES:
                self.flush()
        return view.nbytes

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
        if not buffer and len(piece) >= PIECE_BYTES:
            return piece
        buffer += piece
        if len(buffer) >= PIECE_BYTES:
            break
    return bytes(buffer)
