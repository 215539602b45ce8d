"""From a request to an answer: which call it is, who asks, whether he may, whether it is too much, what went wrong.

Nothing here blocks: what reads a disk runs in one of five crews of threads (tokens, calls, long calls, bodies,
watches). How much of each a token has at once is said in turns.py and limits.py.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers
from starlette.routing import Route, Router

from dalsegno.formats import messages
from dalsegno.formats.prometheus import MEDIA_TYPE
from dalsegno.replicas import wire
from dalsegno.replicas.answers import check
from dalsegno.replicas.calls import ANY_RIGHT, CALLS, NO_TOKEN, Call
from dalsegno.replicas.http_client import JSON, OCTETS
from dalsegno.replicas.tokens import USED_STEP_NS, WRITE, Token, TokenStore, check_token
from dalsegno.replicas.view import check_realm_name
from dalsegno.server import limits, metrics
from dalsegno.server.bodies import SENT_BYTES, Body, Gone, Outlet, TooLarge, TooSlow, check_pace, feed, pulled
from dalsegno.server.gate import Connection, Connections
from dalsegno.server.limits import RateLimit
from dalsegno.server.log import Log
from dalsegno.server.openapi import encoded_page
from dalsegno.server.routes import NOBODY, ROUTES, Ask, Service, Written
from dalsegno.server.turns import Pace, Places
from dalsegno.server.views import shown_value
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Damaged,
    Full,
    Moved,
    NoAccess,
    NotFound,
    Refused,
    TooNew,
    Unavailable,
)
from dalsegno.terms.ids import UUID_BYTES
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import check_volume_name
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.files import file_errors
from dalsegno.world.workers import Workers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

STATUS: Final[tuple[tuple[type[DalError], int], ...]] = (
    (TooLarge, 413),
    (TooSlow, 408),
    (BadInput, 400),
    (NotFound, 404),
    (AlreadyThere, 409),
    (Conflict, 409),
    (Moved, 421),
    (Refused, 422),
    (TooNew, 422),
    (NoAccess, 403),
    (Unavailable, 503),
    (Full, 507),
)
BRINGING_OBJECTS: Final = frozenset(call.name for call in CALLS if call.brings_objects)
GONE_STATUS: Final = 499
CONNECTION: Final = "dalsegno.connection"
"""Where a request's state has the connection over which it came."""
WATCH_SLICE_SECONDS: Final = 1.0
WATCH_SLICES_TRUSTED: Final = 10
"""After so many that brought nothing a watch's token is looked up again; before it is told something in any case."""
RETRY_SECONDS: Final = 1


class Stranger(NoAccess):
    """No token, or one that opens nothing."""


class TooMany(Unavailable):
    """More requests than are allowed."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class OldProtocol(BadInput):
    """The client speaks another version."""


class WrongMethod(BadInput):
    """The path is one, but not with this method."""

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


def status_of(error: DalError, call: str) -> int:
    """Return the HTTP status that an error has."""
    if isinstance(error, Stranger):
        return 401
    if isinstance(error, TooMany):
        return 429
    if isinstance(error, OldProtocol):
        return 426
    if isinstance(error, WrongMethod):
        return 405
    if isinstance(error, Damaged) and call in BRINGING_OBJECTS:
        return 422
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


class _Exchange:
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


class App:
    """The ASGI application. Used in a `with` block, which ends its threads."""

    def __init__(self, service: Service, *, log: Log, rate: float = limits.RATE) -> None:
        self.service = service
        self.log = log
        self.metrics = metrics.Metrics(started_ns=now_ns())
        self._stopping: asyncio.Event | None = None
        self._stopped = False
        self._rate = RateLimit(rate, burst=rate * limits.BURST_SECONDS)
        self._stranger_rate = RateLimit(limits.STRANGER_RATE, burst=limits.STRANGER_RATE * limits.BURST_SECONDS)
        self._health_rate = RateLimit(limits.STRANGER_RATE, burst=limits.STRANGER_RATE * limits.BURST_SECONDS)
        """Apart, so that who guesses tokens leaves the monitors of his neighbours alone."""
        self._logged_rate = RateLimit(limits.LOGGED_RATE, burst=1.0)
        self._unlogged = 0
        self.connections = Connections()
        self._watching: Counter[str] = Counter()
        """How many watches each token has."""
        self._used: dict[str, int] = {}
        self._failures: OrderedDict[str, tuple[str, wire.Failure]] = OrderedDict()
        self._running: Counter[str] = Counter()
        """How many calls each token has, without watches."""
        self._streams = Places(limits.STREAM_SHARES, of_token_max=limits.STREAM_SHARES_OF_TOKEN_MAX)
        self._uploads = Places(limits.UPLOADS_AT_ONCE, of_token_max=limits.UPLOADS_OF_TOKEN_MAX)
        self._messages = Places(limits.MESSAGES_BYTES_MAX, of_token_max=limits.MESSAGES_BYTES_OF_TOKEN_MAX)
        self._call_turns = Places(limits.CALL_THREADS, of_token_max=limits.CALL_THREADS_OF_TOKEN_MAX)
        self._long_turns = Places(limits.LONG_CALL_THREADS, of_token_max=limits.LONG_CALL_THREADS_OF_TOKEN_MAX)
        self._tokens = Workers(limits.TOKEN_THREADS)
        self._calls = Workers(limits.CALL_THREADS)
        self._long_calls = Workers(limits.LONG_CALL_THREADS)
        self._bodies = Workers(limits.BODY_THREADS)
        self._watches = Workers(limits.WATCHES_AT_ONCE)
        by_path: dict[str, dict[str, Call[Any]]] = {}
        for call in CALLS:
            by_path.setdefault(call.path, {})[call.method] = call
        self._router = Router(
            [Route(path, endpoint=_Endpoint(self, calls)) for path, calls in by_path.items()],
            redirect_slashes=False,
            default=_no_such_path,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for crew in (self._watches, self._bodies, self._long_calls, self._calls, self._tokens):
            crew.__exit__(kind, error, trace)

    def stop(self) -> None:
        """End the watches; what runs goes on to its end. To be called in the event loop."""
        self._stopped = True
        self._stop_event().set()

    def _stop_event(self) -> asyncio.Event:
        if self._stopping is None:
            self._stopping = asyncio.Event()
        return self._stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, receive, send, generation=self._generation)
        scope["dalsegno.exchange"] = exchange
        try:
            await self._router(scope, receive, send)
        except Gone:
            exchange.status = GONE_STATUS
        except DalError as error:
            await self._refuse(exchange, error)
        except asyncio.CancelledError:
            exchange.status = exchange.status or 503
            raise
        except Exception as error:
            self.log.crash(exchange.id, error)
            await self._refuse(exchange, DalError(f"internal error: the server's log has request {exchange.id}"))
        finally:
            self._note(exchange)

    async def _refuse(self, exchange: _Exchange, error: DalError) -> None:
        error = await self._counted(exchange, error)
        if exchange.has_begun:
            # In the middle of an answer only cutting it short says that it is not whole; the log says why.
            self.log.line("cut", request=exchange.id, call=exchange.call, code=error.code, message=str(error))
            self._failures[exchange.id] = exchange.token.id, self._failure(exchange, error)
            while len(self._failures) > limits.FAILURES_KEPT_MAX:
                self._failures.popitem(last=False)
            return
        status = status_of(error, exchange.call)
        place = None
        if isinstance(error, Moved):
            place = wire.Place(name=error.server, url=self.service.place_of(error.server))
        problem = wire.Problem(error=self._failure(exchange, error), moved_to=place)
        plain = messages.to_plain(problem)
        if place is None:
            del plain["moved_to"]
        more = {}
        if status == 401:
            more["www-authenticate"] = "Bearer"
        if isinstance(error, TooMany):
            self.metrics.limited += 1
            more["retry-after"] = str(max(1, round(error.seconds)))
        elif status == 503:
            more["retry-after"] = str(RETRY_SECONDS)
        if isinstance(error, WrongMethod):
            more["allow"] = error.allowed
        if status == 426:
            more["upgrade"] = f"dal/{wire.PROTOCOL}"
        if not exchange.is_logged:
            more["connection"] = "close"
        try:
            body = exchange.body
            if body is None:
                with contextlib.suppress(TooLarge):
                    body = exchange.open_body(0)
            if body is not None and not body.is_complete and not await body.drop():
                more["connection"] = "close"
            data = msgspec.json.encode(plain)
            await exchange.start(status, JSON, length=len(data), more=more)
            await exchange.give(data, more=False)
        except Gone:
            pass

    def _failure(self, exchange: _Exchange, error: DalError) -> wire.Failure:
        code = "internal" if type(error) is DalError else error.code
        text = str(error)
        if isinstance(error, Full) and isinstance(error.__cause__, OSError):
            self.log.line("full", request=exchange.id, call=exchange.call, message=text)
            # Which file it was is the server's own affair.
            text = f"the disk of server {self.service.name} is full: free some space there"
        message = " ".join(text.split()).encode(errors="replace").decode()
        return wire.Failure(code=code, message=message, request=exchange.id)

    async def _counted(self, exchange: _Exchange, error: DalError) -> DalError:
        """Return what a request is refused with, which counts as a stranger's when no token came with it."""
        status = status_of(error, exchange.call)
        if exchange.is_counted or exchange.token is not NOBODY or isinstance(error, TooMany) or status // 100 != 4:
            return error
        try:
            # Paths, methods and versions that are none here are looked at before the token is.
            if await self._find_token(exchange) is None:
                self.limit_stranger(exchange)
        except DalError as other:
            return other
        return error

    def count_cut(self, connection: Connection) -> bool:
        """Count what was no request, and return whether it gets an answer."""
        return connection.is_known or not self._stranger_rate.take(connection.source, now_ns=ticks_ns())

    def _note(self, exchange: _Exchange) -> None:
        spent_ns = ticks_ns() - exchange.began_ns
        received = exchange.body.bytes_read if exchange.body is not None else 0
        call = exchange.call or "none"
        self.metrics.requests[call, exchange.status] += 1
        self.metrics.seconds[call] += spent_ns / 1e9
        self.metrics.bytes_in += received
        self.metrics.bytes_out += exchange.bytes_sent
        if not exchange.is_logged and self._logged_rate.take(exchange.connection.source, now_ns=ticks_ns()):
            self._unlogged += 1
            return
        more = {"unlogged": self._unlogged} if self._unlogged else {}
        self._unlogged = 0
        self.log.request(
            **more,
            request=exchange.id,
            address=exchange.address,
            token=exchange.token.id,
            method=exchange.scope["method"],
            path=exchange.scope["path"][:400],
            status=exchange.status,
            received=received,
            sent=exchange.bytes_sent,
            ms=round(spent_ns / 1e6, 1),
        )

    # Who asks

    async def identify(self, exchange: _Exchange) -> Token:
        """Return the token of a request; Stranger when it opens nothing, TooMany when it asks too often."""
        token = await self._find_token(exchange)
        if token is None:
            self.metrics.strangers += 1
            self.limit_stranger(exchange)
            raise Stranger(
                "no token, or one that is unknown, expired or revoked: `dal token add` on the server makes one"
            )
        wait = self._rate.take(token.id, now_ns=ticks_ns())
        if wait:
            raise TooMany("this token asks too often: wait a moment", seconds=wait)
        return token

    def _generation(self) -> int:
        return self.service.house.pool.realm.generation

    async def _find_token(self, exchange: _Exchange) -> Token | None:
        scheme, _, text = exchange.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        looked = self._tokens.submit(self._check, text.strip())
        found: tuple[Token, TokenStore] | None = await asyncio.wrap_future(looked)
        if found is None:
            return None
        self.connections.know(exchange.connection)
        return found[0]

    def limit_stranger(self, exchange: _Exchange) -> None:
        """Count a request without a token that opens something."""
        exchange.is_counted = True
        rate = self._health_rate if exchange.call == "health" else self._stranger_rate
        wait = rate.take(exchange.connection.source, now_ns=ticks_ns())
        if wait:
            exchange.is_logged = False
            raise TooMany("too many requests without a token that opens anything: wait a moment", seconds=wait)

    def _check(self, text: str) -> tuple[Token, TokenStore] | None:
        now = now_ns()
        found = check_token(text, self.service.tokens, now_ns=now)
        if found is not None and now - self._used.get(found[0].id, 0) > USED_STEP_NS:
            if len(self._used) > limits.COUNTED_MAX:
                self._used.clear()
            self._used[found[0].id] = now
            with contextlib.suppress(DalError):  # a full disk must not keep anybody from reading
                found[1].used(found[0].id, now_ns=now)
        return found

    @contextlib.asynccontextmanager
    async def counted(self, call: Call[Any], token: Token) -> AsyncIterator[None]:
        """Count a call that runs, TooMany when there are enough of them."""
        if call.right == NO_TOKEN or call.name == "watch":
            yield
            return
        if self.metrics.running >= limits.CALLS_AT_ONCE:
            raise TooMany("the server is busy: try again", seconds=RETRY_SECONDS)
        if self._running[token.id] >= limits.CALLS_OF_TOKEN_MAX:
            raise TooMany("too many calls of this token run already: try again", seconds=RETRY_SECONDS)
        self.metrics.running += 1
        self._running[token.id] += 1
        try:
            yield
        finally:
            self.metrics.running -= 1
            self._running[token.id] -= 1
            if not self._running[token.id]:
                del self._running[token.id]

    @contextlib.asynccontextmanager
    async def room_for(self, call: Call[Any], token: Token, body: Body) -> AsyncIterator[None]:
        """Have memory for a message until it is answered."""
        count = 0
        if call.body is not None and not call.body_streams and not body.is_complete:
            count = max(0, body.bytes_most - limits.MESSAGE_FREE_BYTES)
        async with self._messages.taken(token.id, count):
            body.is_wanted = self._messages.is_wanted
            yield

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something that blocks."""
        return await asyncio.wrap_future(self._calls.submit(function, *arguments))

    # What is done

    async def run(self, exchange: _Exchange, call: Call[Any], ask: Ask) -> None:
        """Do what is asked, and answer."""
        if call.name == "watch":
            await self._answer_value(exchange, call, await self._watch(exchange, ask))
            return
        if call.name == "openapi":
            await exchange.answer(encoded_page(), JSON)
            return
        if call.name == "failure":
            token_id, failure = self._failures.get(ask.request_id, ("", wire.Failure(code="", message="")))
            if token_id != ask.token.id:
                raise NotFound("nothing is known of this request")
            await self._answer_value(exchange, call, wire.Problem(error=failure))
            return
        if call.name == "metrics":
            extra = await self.in_thread(self.service.extra_metrics, ask.token.covers)
            self.metrics.connections = len(self.connections)
            await exchange.answer(self.metrics.text(extra, now_ns=now_ns()).encode(), MEDIA_TYPE)
            return
        async with self._streams.taken(ask.token.id, call.answer_shares):
            await self._route(exchange, call, ask)

    async def _route(self, exchange: _Exchange, call: Call[Any], ask: Ask) -> None:
        route = ROUTES[call.name]
        if call.body_streams:
            body = exchange.body
            assert body is not None
            async with self._uploads.taken(ask.token.id, 0 if body.is_complete else 1):
                body.is_wanted = self._uploads.is_wanted
                taking: Any = route(self.service, ask)
                value = await feed(taking, body, self._bodies)
        else:
            crew, turns = (self._long_calls, self._long_turns) if call.is_long else (self._calls, self._call_turns)
            async with turns.taken(ask.token.id):
                value = await asyncio.wrap_future(crew.submit(self._do, route, ask))
        if isinstance(value, Written):
            await self._send_all(exchange, Outlet().run(value.work, self._bodies))
        elif isinstance(value, Iterator):
            await self._send_all(exchange, pulled(value, self._bodies))
        elif isinstance(value, bytes):
            await exchange.answer(value, OCTETS)
        else:
            await self._answer_value(exchange, call, value)

    def _do(self, route: Callable[[Service, Ask], Any], ask: Ask) -> Any:
        with file_errors("the server's disk"):
            return route(self.service, ask)

    async def _send_all(self, exchange: _Exchange, pieces: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            await exchange.stream(pieces, self._streams.is_wanted)

    def _blank(self, path: str) -> str:
        """Return a path without what it says of this server's disks."""
        return "" if path.startswith(self.service.house.pool.backend.where("")) else path

    async def _answer_value(self, exchange: _Exchange, call: Call[Any], value: Any) -> None:
        value = shown_value(value, exchange.token, blank=self._blank)
        if isinstance(value, VolumeState) and len(value.clones.newest) + len(value.dumps) > 100:
            data = await self.in_thread(messages.encode, value)
        else:
            data = messages.encode(value)
        await exchange.answer(data, JSON)

    async def _watch(self, exchange: _Exchange, ask: Ask) -> VolumeState:
        """Wait for a new head in slices, so that a stop and a client that went away are noticed."""
        loop = asyncio.get_running_loop()
        head = ask.query["head"]
        # What a follower has is kept for it: that is not for everybody to ask.
        follower = ask.query["follower"] if ask.token.allows(WRITE, ask.volume) else ""
        end = loop.time() + ask.query["seconds"]
        slices = 0
        if (
            self.metrics.watching >= limits.WATCHES_AT_ONCE
            or self._watching[ask.token.id] >= limits.WATCHES_OF_TOKEN_MAX
        ):
            raise TooMany("too many watch already: try again", seconds=RETRY_SECONDS)
        stop = asyncio.ensure_future(self._stop_event().wait())
        gone = asyncio.ensure_future(_until_gone(exchange.receive))
        self.metrics.watching += 1
        self._watching[ask.token.id] += 1
        try:
            while True:
                left = max(0.0, end - loop.time())
                slice_seconds = 0.0 if self._stopped else min(left, WATCH_SLICE_SECONDS)
                job = asyncio.wrap_future(
                    self._watches.submit(
                        self.service.site.watch, ask.volume, head, seconds=slice_seconds, follower=follower
                    )
                )
                follower = ""  # once is enough: it stays noted
                await asyncio.wait((job, stop, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise Gone("the client went away")
                if not job.done():  # the server stops: the answer is the state as it is
                    await self._require_known(exchange)
                    state: VolumeState = await self.in_thread(self.service.site.state, ask.volume)
                    return state
                state = job.result()
                slices += 1
                is_over = state.head != head or left <= slice_seconds or self._stopped
                if is_over or slices % WATCH_SLICES_TRUSTED == 0:
                    await self._require_known(exchange)
                if is_over:
                    return state
        finally:
            self.metrics.watching -= 1
            self._watching[ask.token.id] -= 1
            if not self._watching[ask.token.id]:
                del self._watching[ask.token.id]
            for task in (stop, gone):
                task.cancel()

    async def _require_known(self, exchange: _Exchange) -> None:
        """Whose token was revoked since he asked is told nothing more."""
        if await self._find_token(exchange) is None:
            raise Stranger("the token was revoked, or expired, meanwhile")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    exchange: _Exchange = scope["dalsegno.exchange"]
    raise NotFound(f"no such path: {exchange.scope['path'][:200]!r}: /openapi.json lists them")


class _Endpoint:
    """All calls of one path."""

    def __init__(self, app: App, calls: dict[str, Call[Any]]) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: _Exchange = scope["dalsegno.exchange"]
        app = self._app
        call = self._calls.get(scope["method"])
        if call is None:
            raise WrongMethod(f"{scope['method']} is not for this path", allowed=", ".join(sorted(self._calls)))
        exchange.call = call.name
        spoken = exchange.headers.get(wire.PROTOCOL_HEADER, wire.PROTOCOL)
        if spoken != wire.PROTOCOL:
            raise OldProtocol(
                f"protocol {spoken[:20]!r}: this server speaks version {wire.PROTOCOL}: update whichever is older"
            )
        if call.right == NO_TOKEN:
            app.limit_stranger(exchange)
        else:
            exchange.token = await app.identify(exchange)
        ask = Ask(token=exchange.token, query=_read_query(call, scope["query_string"]))
        self._read_path(call, scope, ask)
        if ask.token.peer:
            ask.token = exchange.token = await app.in_thread(app.service.as_peer, ask.token, ask.volume)
        _require_right(call, ask)
        body = exchange.open_body(call.body_bytes_max)
        async with app.counted(call, ask.token), app.room_for(call, ask.token, body):
            if call.body is not None and not call.body_streams:
                ask.body = await self._read_message(call, body)
            try:
                await app.run(exchange, call, ask)
            except Refused as error:
                if ask.volume and not isinstance(error, Moved):
                    await self._redirect(ask.volume, error)
                raise

    async def _read_message(self, call: Call[Any], body: Body) -> Any:
        data = await body.whole()
        if call.body is None or call.body is bytes:
            return data
        if len(data) > 64 * 1024:
            return await self._app.in_thread(_read_message, data, call.body)
        return _read_message(data, call.body)

    def _read_path(self, call: Call[Any], scope: Scope, ask: Ask) -> None:
        raw = scope.get("raw_path", b"").lower()
        if b"%2f" in raw or b"%00" in raw or b"%5c" in raw:
            raise BadInput("path: a name has no slash and no zero byte in it")
        words = scope["path_params"]
        if "volume" in words:
            name = words["volume"]
            if not name.isprintable():
                raise BadInput(f"volume name {name[:80]!r}: expected letters, digits and . _ - + , =")
            check_volume_name(name)
            ask.volume = name
        if "upload" in words:
            digits = words["upload"]
            if len(digits) != 2 * UUID_BYTES:
                raise BadInput(f"upload: expected {2 * UUID_BYTES} hexadecimal digits")
            ask.upload = messages.parse_hex(digits, "upload")
        ask.token_id = words.get("token_id", "")
        ask.request_id = words.get("request_id", "")
        if "server" in words:
            ask.server = check_realm_name(words["server"])

    async def _redirect(self, volume: str, error: Refused) -> None:
        try:
            state = await self._app.in_thread(self._app.service.site.state, volume)
        except DalError:
            return
        if state.replicas is not None and state.replicas.moved_to:
            raise Moved(str(error), server=state.replicas.moved_to) from None


def _read_message(data: bytes, kind: type[Any]) -> Any:
    """Return what a body says; of what gets into a volume's state all that clients look at is looked at here, too."""
    return check(messages.decode(data, kind))


def _require_right(call: Call[Any], ask: Ask) -> None:
    if call.right == NO_TOKEN:
        return
    token = ask.token
    if not ask.volume:
        if call.right != ANY_RIGHT and call.right not in token.effective():
            raise NoAccess(f"this token does not give the right to {call.right}")
        return
    if call.right == ANY_RIGHT:
        if not token.covers(ask.volume):
            raise NoAccess(f"this token gives no right on volume {ask.volume!r}")
    elif call.peers and token.peer and token.covers(ask.volume):
        return
    elif not token.allows(call.right, ask.volume) and not (call.also and token.allows(call.also, ask.volume)):
        raise NoAccess(f"this token does not give the right to {call.right} on volume {ask.volume!r}")


def _read_query(call: Call[Any], raw: bytes) -> dict[str, Any]:
    from_url = _parse_query(raw)
    known = {one.name for one in call.query}
    unknown = from_url.keys() - known
    if unknown:
        raise BadInput(f"unknown parameter {min(unknown)[:64]!r}")
    values: dict[str, Any] = {}
    for one in call.query:
        text = from_url.get(one.name)
        if text is None:
            if one.required:
                raise BadInput(f"parameter {one.name!r} is missing")
            values[one.name] = one.default
            continue
        try:
            values[one.name] = one.read(text)
        except BadInput as error:
            raise BadInput(f"parameter {one.name!r}: {error}") from None
    return values


def _parse_query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=32, errors="strict"
        )
    except ValueError:
        raise BadInput("the query is none: expected name=value&name=value") from None
    if len(dict(pairs)) != len(pairs):
        raise BadInput("a parameter stands twice")
    return dict(pairs)
