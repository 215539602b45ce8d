"""From a request to an answer: which call it is, who asks, whether he may, whether it is too much, what went wrong.

Nothing here blocks: what reads a disk runs in one of five crews of threads (tokens, calls, long calls, bodies,
watches). How much of each a token has at once is said in turns.py and limits.py.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
from starlette.routing import Route, Router

from dalsegno.formats import messages
from dalsegno.formats.prometheus import MEDIA_TYPE
from dalsegno.replicas import wire
from dalsegno.replicas.calls import CALLS, NO_TOKEN, Call
from dalsegno.replicas.http_client import JSON, OCTETS
from dalsegno.replicas.tokens import Token
from dalsegno.server import limits, metrics
from dalsegno.server.bodies import Body, Gone, Outlet, TooLarge, feed, pulled
from dalsegno.server.callers import Callers
from dalsegno.server.crews import Crews, Shares
from dalsegno.server.exchange import GONE_STATUS, Exchange, Receive, Scope, Send
from dalsegno.server.gate import Connection, Connections
from dalsegno.server.limits import RateLimit
from dalsegno.server.log import Log
from dalsegno.server.openapi import encoded_page
from dalsegno.server.refusals import RETRY_SECONDS, TooMany, WrongMethod, headers_of, status_of
from dalsegno.server.requests import read_message, read_path, read_query, require_protocol, require_right
from dalsegno.server.routes import NOBODY, ROUTES, Ask, Service, Written
from dalsegno.server.views import shown_value
from dalsegno.server.watching import Watching
from dalsegno.terms.errors import DalError, Full, Moved, NotFound, Refused
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns, ticks_ns
from dalsegno.world.files import file_errors


class App:
    """The ASGI application. Used in a `with` block, which ends its threads."""

    def __init__(self, service: Service, *, log: Log, rate: float = limits.RATE) -> None:
        self.service = service
        self.log = log
        self.metrics = metrics.Metrics(started_ns=now_ns())
        self.connections = Connections()
        self._crews = Crews()
        self._shares = Shares()
        self.callers = Callers(service.tokens, self._crews.tokens, self.connections, self.metrics, rate=rate)
        self._watching = Watching(service.site, self._crews, self.callers, self.metrics)
        self._logged_rate = RateLimit(limits.LOGGED_RATE, burst=1.0)
        self._unlogged = 0
        self._failures: OrderedDict[str, tuple[str, wire.Failure]] = OrderedDict()
        self._running: Counter[str] = Counter()
        """How many calls each token has, without watches."""
        by_path: dict[str, dict[str, Call[Any]]] = {}
        for call in CALLS:
            by_path.setdefault(call.path, {})[call.method] = call
        self._router = Router(
            [Route(path, endpoint=_Endpoint(self, calls)) for path, calls in by_path.items()],
            redirect_slashes=False,
            default=_no_such_path,
        )

    def __enter__(self) -> Self:
        self._crews.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crews.__exit__(kind, error, trace)

    def stop(self) -> None:
        """End the watches; what runs goes on to its end. To be called in the event loop."""
        self._watching.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, generation=self._generation)
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

    async def _refuse(self, exchange: Exchange, error: DalError) -> None:
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
        more = headers_of(error, status)
        self.metrics.limited += isinstance(error, TooMany)
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

    def _failure(self, exchange: Exchange, error: DalError) -> wire.Failure:
        code = "internal" if type(error) is DalError else error.code
        text = str(error)
        if isinstance(error, Full) and isinstance(error.__cause__, OSError):
            self.log.line("full", request=exchange.id, call=exchange.call, message=text)
            # Which file it was is the server's own affair.
            text = f"the disk of server {self.service.name} is full: free some space there"
        message = " ".join(text.split()).encode(errors="replace").decode()
        return wire.Failure(code=code, message=message, request=exchange.id)

    async def _counted(self, exchange: Exchange, error: DalError) -> DalError:
        """Return what a request is refused with, which counts as a stranger's when no token came with it."""
        status = status_of(error, exchange.call)
        if exchange.is_counted or exchange.token is not NOBODY or isinstance(error, TooMany) or status // 100 != 4:
            return error
        try:
            # Paths, methods and versions that are none here are looked at before the token is.
            await self.callers.count_refused(exchange)
        except DalError as other:
            return other
        return error

    def count_cut(self, connection: Connection) -> bool:
        """Count what was no request, and return whether it gets an answer."""
        return self.callers.count_cut(connection)

    def _note(self, exchange: Exchange) -> None:
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

    def _generation(self) -> int:
        return self.service.house.pool.realm.generation

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
        async with self._shares.messages.taken(token.id, count):
            body.is_wanted = self._shares.messages.is_wanted
            yield

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something that blocks."""
        return await asyncio.wrap_future(self._crews.calls.submit(function, *arguments))

    # What is done

    async def run(self, exchange: Exchange, call: Call[Any], ask: Ask) -> None:
        """Do what is asked, and answer; NotFound for a failure that is none of the token's."""
        if call.name == "watch":
            await self._answer_value(exchange, call, await self._watching.answer(exchange, ask))
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
        async with self._shares.streams.taken(ask.token.id, call.answer_shares):
            await self._route(exchange, call, ask)

    async def _route(self, exchange: Exchange, call: Call[Any], ask: Ask) -> None:
        route = ROUTES[call.name]
        if call.body_streams:
            body = exchange.body
            assert body is not None
            async with self._shares.uploads.taken(ask.token.id, 0 if body.is_complete else 1):
                body.is_wanted = self._shares.uploads.is_wanted
                taking: Any = route(self.service, ask)
                value = await feed(taking, body, self._crews.bodies)
        else:
            crew, places = self._crews.calls, self._shares.calls
            if call.is_long:
                crew, places = self._crews.long_calls, self._shares.long_calls
            async with places.taken(ask.token.id):
                value = await asyncio.wrap_future(crew.submit(self._do, route, ask))
        if isinstance(value, Written):
            await self._send_all(exchange, Outlet().run(value.work, self._crews.bodies))
        elif isinstance(value, Iterator):
            await self._send_all(exchange, pulled(value, self._crews.bodies))
        elif isinstance(value, bytes):
            await exchange.answer(value, OCTETS)
        else:
            await self._answer_value(exchange, call, value)

    def _do(self, route: Callable[[Service, Ask], Any], ask: Ask) -> Any:
        with file_errors("the server's disk"):
            return route(self.service, ask)

    async def _send_all(self, exchange: Exchange, pieces: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            await exchange.stream(pieces, self._shares.streams.is_wanted)

    def _blank(self, path: str) -> str:
        """Return a path without what it says of this server's disks."""
        return "" if path.startswith(self.service.house.pool.backend.where("")) else path

    async def _answer_value(self, exchange: Exchange, call: Call[Any], value: Any) -> None:
        value = shown_value(value, exchange.token, blank=self._blank)
        if isinstance(value, VolumeState) and len(value.clones.newest) + len(value.dumps.newest) > 100:
            data = await self.in_thread(messages.encode, value)
        else:
            data = messages.encode(value)
        await exchange.answer(data, JSON)


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    exchange: Exchange = scope["dalsegno.exchange"]
    raise NotFound(f"no such path: {exchange.scope['path'][:200]!r}: /openapi.json lists them")


class _Endpoint:
    """All calls of one path."""

    def __init__(self, app: App, calls: dict[str, Call[Any]]) -> None:
        self._app = app
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["dalsegno.exchange"]
        app = self._app
        call = self._calls.get(scope["method"])
        if call is None:
            raise WrongMethod(f"{scope['method']} is not for this path", allowed=", ".join(sorted(self._calls)))
        exchange.call = call.name
        require_protocol(exchange)
        if call.right == NO_TOKEN:
            app.callers.limit_stranger(exchange)
        else:
            exchange.token = await app.callers.identify(exchange)
        ask = Ask(token=exchange.token, query=read_query(call, scope["query_string"]))
        read_path(scope, ask)
        if ask.token.peer:
            ask.token = exchange.token = await app.in_thread(app.service.as_peer, ask.token, ask.volume)
        require_right(call, ask)
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
            return await self._app.in_thread(read_message, data, call.body)
        return read_message(data, call.body)

    async def _redirect(self, volume: str, error: Refused) -> None:
        try:
            state = await self._app.in_thread(self._app.service.site.state, volume)
        except DalError:
            return
        if state.replicas is not None and state.replicas.moved_to:
            raise Moved(str(error), server=state.replicas.moved_to) from None
