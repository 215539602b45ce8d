"""Sockets, TLS and HTTP: uvicorn with httptools, and what these leave open: endless heads, slow clients, the stop.

A request's head is at most HEAD_BYTES_MAX, in HEAD_SECONDS; framing of a chunked body may not outweigh the body; a
connection that says nothing for KEEP_ALIVE_SECONDS is closed, and one whose client sends requests without waiting for
their answers when PIPELINED_MAX of them wait. Who gets a connection is said in gate.py; bodies are looked after in
bodies.py.
"""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
from asyncio import TimerHandle
from collections.abc import Callable, Iterator, Sized
from typing import Any, Final

import msgspec
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dalsegno.formats import messages
from dalsegno.replicas import wire
from dalsegno.server import limits
from dalsegno.server.app import App
from dalsegno.server.exchange import CONNECTION
from dalsegno.server.gate import Connection, Gate, connections_allowed, raise_file_limit
from dalsegno.terms.errors import BadInput, Conflict, NoAccess, Unavailable

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_BODY_HEADERS: Final = (b"content-length", b"transfer-encoding")

_REASONS: Final = {
    400: ("bad-input", "Bad Request", "not an HTTP request that this server reads"),
    408: ("unavailable", "Request Timeout", "the request's head did not arrive in time"),
    431: ("bad-input", "Request Header Fields Too Large", "the request's head is too large"),
    503: ("unavailable", "Service Unavailable", "too many requests wait on this connection: read the answers first"),
}


class _Refused(Exception):
    """Raised within the parser, to stop it."""


class _Flow(FlowControl):
    """Reads nothing more while whole requests wait."""

    def __init__(self, transport: Any, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless what was read already has not had its turn."""
        if not self._pipeline:
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection, whose client may want to do harm."""

    def __init__(self, *, app: App, connection: Connection, **given: Any) -> None:
        super().__init__(**given, app_state={CONNECTION: connection})
        self._guarded_app = app
        self._connection = connection
        self._phase = _IDLE
        self._began = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._fed_bytes = 0
        self._timer: TimerHandle | None = None
        self._end_timer: TimerHandle | None = None
        self._codings: list[bytes] = []
        self._hosts = 0
        self._status = 400
        self._records: Any = None
        """What asyncio keeps of TLS for this connection."""

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if hasattr(transport, "max_size"):  # as asyncio calls it: what one read brings
            transport.max_size = limits.READ_BYTES
        self._records = getattr(transport, "_ssl_protocol", None)
        self._connection.end = self._abort
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._disarm()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._guarded_app.connections.leave(self._connection)
        self.pipeline.clear()
        super().connection_lost(exc)

    def _abort(self) -> None:
        # A close would wait for a client that takes nothing.
        self._guarded_app.metrics.cut_off += 1
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came, and look at what it was."""
        if self.transport.is_closing():
            return
        self._began = self._phase == _IDLE
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._phase == _HEAD:
            if not self._began:
                self._head_bytes += len(data)
            if self._head_bytes > limits.HEAD_BYTES_MAX:
                self._cut(431)
        elif self._phase == _BODY and not self._began:
            self._fed_bytes += len(data)
            framing = self._fed_bytes - self._body_bytes
            if framing > limits.FRAMING_BYTES_MAX + limits.FRAMING_SHARE * self._body_bytes:
                self._cut(400)
        if self._phase != _HEAD and (self.cycle is None or self.cycle.response_complete):
            self._arm()  # empty lines are no request, nor is what follows an answered one

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._phase, self._began = _HEAD, True
        self._head_bytes = 0
        self._codings = []
        self._hosts = 0
        self._arm()

    def on_url(self, url: bytes) -> None:
        """A piece of the path came."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header came, of the head or behind a chunked body."""
        self._count(len(name) + len(value))
        if len(self.headers) >= limits.HEADERS_MAX:
            self._status = 431
            raise _Refused
        if self._phase == _HEAD:
            super().on_header(name, value)
            if self.headers[-1][0] == b"transfer-encoding":
                self._codings.append(value.strip().lower())
            self._hosts += self.headers[-1][0] == b"host"

    def _count(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > limits.HEAD_BYTES_MAX:
            self._status = 431
            raise _Refused

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._disarm()
        if not self._is_plain():
            raise _Refused
        if len(self.pipeline) >= limits.PIPELINED_MAX:
            self._status = 503
            raise _Refused
        self._phase, self._began = _BODY, True
        self._body_bytes = self._fed_bytes = 0
        if self._records is not None and any(name in _BODY_HEADERS for name, _ in self.headers):
            self._records.max_size = limits.TLS_READ_BYTES  # its buffer grows with the next read
        self._guarded_app.connections.begin(self._connection)
        super().on_headers_complete()

    def _is_plain(self) -> bool:
        """Tell whether nobody in between reads the head in another way: where a body ends is no matter of opinion."""
        if self.parser.get_http_version() == "1.1":
            return self._hosts == 1 and self._codings in ([], [b"chunked"])
        return self._hosts <= 1 and not self._codings

    def on_body(self, body: bytes) -> None:
        """A piece of the body came."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._phase = _IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is whole."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._linger()
        elif self.cycle.response_complete:
            self._guarded_app.connections.rest(self._connection)
            if self._records is not None and self._records.max_size > limits.TLS_HEAD_BYTES:
                _hold_little(self._records)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that says nothing."""
        super().timeout_keep_alive_handler()
        self._linger()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused."""
        self._cut(self._status)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(limits.HEAD_SECONDS, self._too_late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        answered = self.cycle is None or self.cycle.response_complete
        if (self._phase == _HEAD or answered) and not self.transport.is_closing():
            self._cut(408)

    def _cut(self, status: int) -> None:
        """Say why, and end the connection."""
        self._guarded_app.metrics.cut_off += 1
        self._disarm()
        if self.transport.is_closing():
            return
        if not self._guarded_app.count_cut(self._connection):
            self.transport.abort()
            return
        if self.cycle is None or self.cycle.response_complete:
            code, reason, text = _REASONS[status]
            problem = messages.to_plain(wire.Problem(error=wire.Failure(code=code, message=text)))
            del problem["moved_to"]
            body = msgspec.json.encode(problem)
            head = (
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                "connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
        self._linger()

    def _linger(self) -> None:
        """Give a client that takes nothing some time before its connection ends whatever it has not taken."""
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(limits.LINGER_SECONDS, self.transport.abort)


def _hold_little(records: Any) -> None:
    """Let a connection that waits hold a small buffer: what came was taken out of the large one in the same step."""
    records.max_size = limits.TLS_HEAD_BYTES
    records._ssl_buffer = bytearray(limits.TLS_HEAD_BYTES)
    records._ssl_buffer_view = memoryview(records._ssl_buffer)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, app: App, tls: ssl.SSLContext | None, ready: Callable[[], None]):
        super().__init__(config)
        self._app = app
        self._tls = tls
        self._ready = ready
        self.was_cut = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        metrics = self._app.metrics

        def protocol(connection: Connection) -> GuardedProtocol:
            return GuardedProtocol(
                app=self._app, connection=connection, config=self.config, server_state=self.server_state
            )

        def refused() -> None:
            metrics.cut_off += 1

        self.servers = [
            Gate(sock, self._app.connections, protocol, tls=self._tls, refused=refused)  # type: ignore[misc]
            for sock in sockets or []
        ]
        await self.lifespan.startup()
        self.started = True
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let what runs come to its end, for a while."""
        await super().shutdown(sockets)
        self.was_cut = bool(self.server_state.tasks)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: `run` has them."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has the address; Conflict when somebody else has it."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise BadInput(f"--listen {where}: this host has no such name or address") from None
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(limits.CONNECTIONS_MAX)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{where}: the port is taken: stop who has it, or choose another with --listen") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NoAccess(f"{where}: this user may not listen there: ports above 1023 are free to all") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise BadInput(f"--listen {where}: not an address of this host") from None
        raise Unavailable(f"{where}: {error.strerror}") from None
    return sock


def run(
    app: App,
    sockets: list[socket.socket],
    *,
    tls: ssl.SSLContext | None,
    stop_seconds: int,
    ready: Callable[[], None],
    reload: Callable[[], None] | None = None,
) -> bool:
    """Serve until SIGTERM or SIGINT; return whether everything that ran then came to its end.

    On SIGHUP `reload` is called, if there is one.
    """
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [logging.NullHandler()], False  # log.py says it, in one form
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=stop_seconds,
    )
    server = _Server(config, app=app, tls=tls, ready=ready)
    app.connections.count_max = connections_allowed(raise_file_limit())

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if server.should_exit:
                server.force_exit = True
            server.should_exit = True
            app.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        if reload is not None:
            loop.add_signal_handler(signal.SIGHUP, reload)
        await server.serve(sockets=sockets)

    asyncio.run(serve())
    return not server.was_cut
