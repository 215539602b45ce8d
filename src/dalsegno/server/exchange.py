"""One request and its answer, as bytes: headers, a body that comes, an answer that is sent at the client's pace."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers

from dalsegno.replicas import wire
from dalsegno.replicas.http_client import OCTETS
from dalsegno.server import limits
from dalsegno.server.bodies import SENT_BYTES, Body, Gone, check_pace
from dalsegno.server.gate import Connection
from dalsegno.server.routes import NOBODY
from dalsegno.server.turns import Pace
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import ticks_ns

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GONE_STATUS: Final = 499
CONNECTION: Final = "dalsegno.connection"
"""Where a request's state has the connection over which it came."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, generation: Callable[[], int]) -> None:
        """`generation` returns that of the realm's key, which who has a token is told when it was changed."""
        self._generation = generation
        self.scope = scope
        self.receive = receive
        self._send = send
        self.id = random_bytes(8).hex()
        self.headers = Headers(scope=scope)
        self.call = ""
        self.token = NOBODY
        self.is_counted = False
        """As a stranger's."""
        self.is_logged = True
        self.body: Body | None = None
        self.status = 0
        self.bytes_sent = 0
        self._pace = Pace()
        self.began_ns = ticks_ns()

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    @property
    def connection(self) -> Connection:
        found: Connection = self.scope["state"][CONNECTION]
        return found

    @property
    def has_begun(self) -> bool:
        return self.status != 0

    def open_body(self, bytes_max: int) -> Body:
        declared = self.headers.get("content-length")
        number = int(declared) if declared is not None and declared.isdecimal() and len(declared) < 20 else None
        self.body = Body(self.receive, declared=number, bytes_max=bytes_max)
        if number == 0 or (number is None and "transfer-encoding" not in self.headers):
            self.body.is_complete = True
        return self.body

    async def start(self, status: int, media: str, *, length: int | None, more: dict[str, str] | None = None) -> None:
        headers = {
            "content-type": media,
            wire.REQUEST_HEADER.lower(): self.id,
            wire.PROTOCOL_HEADER.lower(): wire.PROTOCOL,
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **(more or {}),
        }
        if length is not None:
            headers["content-length"] = str(length)
        if self.token is not NOBODY and (generation := self._generation()) > 1:
            headers[wire.KEY_HEADER.lower()] = str(generation)
        self.status = status
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._give({"type": "http.response.start", "status": status, "headers": raw})

    async def give(self, data: bytes, *, more: bool) -> None:
        self.bytes_sent += len(data)
        await self._give({"type": "http.response.body", "body": data, "more_body": more})

    async def _give(self, message: Message) -> None:
        asked = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limits.BODY_IDLE_SECONDS):
                await self._send(message)
        except TimeoutError:
            transport = getattr(getattr(self._send, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()  # a close would wait for a client that takes nothing
            raise Gone("the client takes nothing") from None
        self._pace.note(len(message.get("body", b"")), seconds=asyncio.get_running_loop().time() - asked)

    async def answer(self, data: bytes, media: str) -> None:
        await self.start(200, media, length=len(data))
        await self.give(data, more=False)

    async def stream(self, pieces: AsyncIterator[bytes], is_wanted: Callable[[], bool]) -> None:
        """Send what comes; the first piece before the headers, so that most errors are an answer of their own.

        TooSlow for who takes it slowly, more so when somebody waits for his place.
        """
        first = await anext(pieces, b"")
        await self.start(200, OCTETS, length=None)
        if first:
            await self.give(first, more=True)
            async for piece in pieces:
                if self.is_gone():
                    raise Gone("the client went away")
                for start in range(0, len(piece), SENT_BYTES):
                    await self.give(piece[start : start + SENT_BYTES], more=True)
                    check_pace(self._pace, is_wanted)
        await self.give(b"", more=False)

    def is_gone(self) -> bool:
        """Tell whether the connection is known to be lost."""
        cycle = getattr(self._send, "__self__", None)
        return bool(getattr(cycle, "disconnected", False))
