"""Connections: accepted, counted by where they come from, and ended where there are too many.

A connection is a stranger's until a token that opens something came over it. Whoever comes last gets a place, and who
said nothing for longest loses his: one who only holds connections keeps nobody out. They are counted from the moment
that they are accepted, handshakes included, and stay below what the system gives this process.
"""

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from dalsegno.server import limits

ACCEPTS_AT_ONCE: Final = 32
"""Between two looks at all else."""
REST_SECONDS: Final = 0.5
"""Nothing is accepted for so long when the system has no descriptor or memory for more."""
FILES_WANTED: Final = limits.CONNECTIONS_MAX + limits.FILES_RESERVED
CONNECTIONS_LEAST: Final = 16
TCP_NOTSENT_LOWAT: Final = 25
"""tcp(7); Python names it since 3.12."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BUSY_ANSWER: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def source_of(address: str) -> str:
    """Return whom an address counts for: itself, or the network that one owner of IPv6 addresses has."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64))


def connections_allowed(files: int) -> int:
    """Return how many connections there may be where a process may have so many files open."""
    return max(CONNECTIONS_LEAST, min(limits.CONNECTIONS_MAX, files - min(limits.FILES_RESERVED, files // 2)))


def raise_file_limit() -> int:
    """Let this process have as many files open as it may, within reason, and return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return FILES_WANTED if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


@dataclass(slots=True, eq=False)
class Connection:
    """One that was accepted."""

    source: str
    end: Callable[[], None]
    """Ends it at once, whatever it is at."""
    since: float
    """When it was accepted, on the loop's clock."""
    is_known: bool = False
    is_busy: bool = False
    """A request is being answered."""


class Connections:
    """All that there are; those that have been idle for longest come first. Used by the event loop only."""

    def __init__(self) -> None:
        self.count_max: int = limits.CONNECTIONS_MAX
        self._all: dict[Connection, None] = {}
        self._strangers: dict[str, dict[Connection, None]] = {}
        self._of_source: Counter[str] = Counter()

    def _has_room_for_stranger(self, strangers: dict[Connection, None], now: float) -> bool:
        if len(strangers) < limits.STRANGERS_OF_ADDRESS_MAX:
            return True
        # All of an office come at once when the server was away: they are strangers until they have said who they are.
        oldest = _first_idle(strangers) or next(iter(strangers))
        return len(strangers) < limits.NEWCOMERS_OF_ADDRESS_MAX and now - oldest.since < limits.NEWCOMER_SECONDS

    def __len__(self) -> int:
        return len(self._all)

    def admit(self, source: str, end: Callable[[], None], *, now: float) -> Connection | None:
        """Return a place for a new connection, which another may have lost for it; None when there is none."""
        strangers = self._strangers.get(source, {})
        if not self._has_room_for_stranger(strangers, now):
            self._drop(_first_idle(strangers) or next(iter(strangers)))
        elif self._of_source[source] >= limits.CONNECTIONS_OF_ADDRESS_MAX:
            mine = [each for each in self._all if each.source == source]
            if not self._drop(_first_idle(strangers) or _first_idle(mine)):
                return None
        if len(self._all) >= self.count_max and not self._drop(self._idlest()):
            return None
        connection = Connection(source, end, now)
        self._all[connection] = None
        self._strangers.setdefault(source, {})[connection] = None
        self._of_source[source] += 1
        return connection

    def _idlest(self) -> Connection | None:
        return _first_idle(each for each in self._all if not each.is_known) or _first_idle(self._all)

    def _drop(self, connection: Connection | None) -> bool:
        if connection is None:
            return False
        self.leave(connection)
        connection.end()
        return True

    def make_room(self) -> bool:
        """End the connection that is idle for longest, and return whether there was one."""
        return self._drop(self._idlest())

    def leave(self, connection: Connection) -> None:
        """Forget a connection that ended; one that is not there is no error."""
        if connection not in self._all:
            return
        del self._all[connection]
        self._forget_stranger(connection)
        self._of_source[connection.source] -= 1
        if not self._of_source[connection.source]:
            del self._of_source[connection.source]

    def _forget_stranger(self, connection: Connection) -> None:
        strangers = self._strangers.get(connection.source, {})
        strangers.pop(connection, None)
        if not strangers:
            self._strangers.pop(connection.source, None)

    def know(self, connection: Connection) -> None:
        """Note that a token that opens something came over a connection."""
        if not connection.is_known:
            connection.is_known = True
            self._forget_stranger(connection)

    def begin(self, connection: Connection) -> None:
        """Note that a request is being answered."""
        connection.is_busy = True

    def rest(self, connection: Connection) -> None:
        """Note that a connection is idle from now on."""
        connection.is_busy = False
        for group in (self._all, self._strangers.get(connection.source, {})):
            if connection in group:
                del group[connection]
                group[connection] = None


def _first_idle(connections: Iterable[Connection]) -> Connection | None:
    return next((each for each in connections if not each.is_busy), None)


class Gate:
    """A listening socket. What uvicorn asks of an asyncio.Server it does, too."""

    def __init__(
        self,
        sock: socket.socket,
        connections: Connections,
        protocol: Callable[[Connection], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None,
        refused: Callable[[], None],
    ) -> None:
        """`refused` is told of each connection that got no place."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._connections = connections
        self._protocol = protocol
        self._tls = tls
        self._refused = refused
        self._opening: set[asyncio.Task[None]] = set()
        self._is_open = True
        if tls is not None:
            sslproto.SSLProtocol.max_size = limits.TLS_HEAD_BYTES
        sock.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept nothing more."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock.fileno())

    async def wait_closed(self) -> None:
        """Wait until those that were only beginning are gone."""
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._rest()
                # Anything else is about the connection that did not come to be (accept(2), "Error handling").
                return
            self._admit(sock, source_of(str(peer[0]) if peer else ""))

    def _rest(self) -> None:
        self._refused()
        self._connections.make_room()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_later(REST_SECONDS, self._listen)

    def _admit(self, sock: socket.socket, source: str) -> None:
        task: asyncio.Task[None] | None = None

        def end() -> None:
            if task is not None:
                task.cancel()

        connection = self._connections.admit(source, end, now=self._loop.time())
        if connection is None:
            self._refused()
            with contextlib.closing(sock), contextlib.suppress(OSError):
                sock.setblocking(False)
                if self._tls is None:
                    sock.send(_BUSY_ANSWER)
            return
        sock.setblocking(False)
        # What a client has not taken waits here, where it is seen, and not in the kernel.
        sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, limits.UNSENT_BYTES)
        begun: list[asyncio.Protocol] = []
        task = self._loop.create_task(self._begin(sock, connection, begun))
        self._opening.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._opening.discard(task)
            error = None if task.cancelled() else task.exception()
            if not task.cancelled() and error is None:
                return
            self._connections.leave(connection)
            if not begun:
                sock.close()
            if error is not None and not isinstance(error, OSError):  # ssl.SSLError is one
                self._loop.call_exception_handler({"message": "a connection that began", "exception": error})

        task.add_done_callback(done)

    async def _begin(self, sock: socket.socket, connection: Connection, begun: list[asyncio.Protocol]) -> None:
        """Shake hands. `begun` holds something as soon as asyncio looks after the socket."""

        def protocol() -> asyncio.Protocol:
            begun.append(self._protocol(connection))
            return begun[0]

        more: dict[str, Any] = {}
        if self._tls is not None:
            more = {"ssl": self._tls, "ssl_handshake_timeout": limits.HANDSHAKE_SECONDS}
        await self._loop.connect_accepted_socket(protocol, sock, **more)
