"""Connections to servers: made quickly or not at all, to whom is meant, and never waited for without an end.

A server that sends a byte now and then, for ever, is one that does not answer: what is read has its time as a whole.
"""

import hashlib
import hmac
import http.client
import io
import select
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm

from dalsegno.formats.join import FINGERPRINT_PREFIX
from dalsegno.terms.errors import NoAccess
from dalsegno.terms.sizes import KIB
from dalsegno.terms.times import SECOND_NS
from dalsegno.world.clock import ticks_ns
from dalsegno.world.workers import new_lock

PROBE_IDLE_SECONDS: Final = 10
PROBE_INTERVAL_SECONDS: Final = 5
PROBES: Final = 3
UNHEARD_MS_MAX: Final = 25_000
SEND_BYTES: Final = 256 * KIB
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 300.0
"""How long a server may think. One that died is noticed earlier: the network's own probes do."""
IDLE_CONNECTIONS_MAX: Final = 16


class _Timed(io.RawIOBase):
    """The bytes that a socket gives until an instant."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._until_ns = 0

    def give(self, seconds: float) -> None:
        """Let all that is read from now on take so long."""
        self._until_ns = ticks_ns() + int(seconds * SECOND_NS)

    def readinto(self, buffer: Any) -> int | None:
        left_ns = self._until_ns - ticks_ns()
        if left_ns <= 0:
            raise TimeoutError
        self._sock.settimeout(left_ns / SECOND_NS)
        return self._raw.readinto(buffer)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer whose head, and each part of whose body, comes in a given time."""

    def __init__(self, sock: socket.socket, *words: Any, **options: Any) -> None:
        self._timed = _Timed(sock)
        self.give(sock.gettimeout() or 0.0)
        super().__init__(_Made(self._timed), *words, **options)  # type: ignore[arg-type]

    def give(self, seconds: float) -> None:
        """Let what is read from now on take so long; TimeoutError when it does not come."""
        self._timed.give(seconds)

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:  # http.client would read to the end, however far that is
            raise http.client.IncompleteRead(b"")
        return size


class _Made:
    """What http.client asks of a socket: something to read from."""

    def __init__(self, timed: _Timed) -> None:
        self._timed = timed

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(self._timed, SEND_BYTES)


class Plain(http.client.HTTPConnection):
    """A connection that is made quickly or not at all, and notices when the other side is gone."""

    response_class = Response

    def getresponse(self) -> Response:
        """Return the answer, once its head has come."""
        response = super().getresponse()
        assert isinstance(response, Response)
        return response

    def __init__(self, host: str, port: int, *, connect_seconds: float, answer_seconds: float) -> None:
        super().__init__(host, port, timeout=connect_seconds, blocksize=SEND_BYTES)
        self._answer_seconds = answer_seconds

    def connect(self) -> None:
        super().connect()
        _probe(self.sock)
        self.sock.settimeout(self._answer_seconds)


class Sealed(http.client.HTTPSConnection):
    """The same under TLS, to a server whose certificate is the pinned one, if one is."""

    response_class = Response

    def getresponse(self) -> Response:
        """Return the answer, once its head has come."""
        response = super().getresponse()
        assert isinstance(response, Response)
        return response

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connect_seconds: float,
        answer_seconds: float,
        context: ssl.SSLContext,
        fingerprint: str,
    ) -> None:
        super().__init__(host, port, timeout=connect_seconds, blocksize=SEND_BYTES, context=context)
        self._answer_seconds = answer_seconds
        self._fingerprint = fingerprint

    def connect(self) -> None:
        super().connect()
        _probe(self.sock)
        self.sock.settimeout(self._answer_seconds)
        if not self._fingerprint:
            return
        assert isinstance(self.sock, ssl.SSLSocket)
        der = self.sock.getpeercert(binary_form=True) or b""
        # Older join strings pin the certificate itself: that is stricter, and right as long as it is the same.
        shown = certificate_fingerprint(der)
        if not hmac.compare_digest(shown, self._fingerprint) and not hmac.compare_digest(
            FINGERPRINT_PREFIX + hashlib.sha256(der).hexdigest(), self._fingerprint
        ):
            self.close()
            raise NoAccess(
                f"{self.host}:{self.port}: the server shows another certificate ({shown[:23]}...) than the pinned "
                "one: somebody stands between, or it has a new one: join it anew"
            )


def certificate_fingerprint(der: bytes) -> str:
    """Return the fingerprint of a certificate's public key, as join strings carry it: it outlives the certificate."""
    x509 = import_module("cryptography.x509")  # only who speaks TLS needs it
    serialization = import_module("cryptography.hazmat.primitives.serialization")
    try:
        key = x509.load_der_x509_certificate(der).public_key()
        data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        data = der  # nothing that this program knows as a key: only the whole can be compared
    return FINGERPRINT_PREFIX + hashlib.sha256(data).hexdigest()


def _probe(sock: socket.socket) -> None:
    for option, value in (
        (socket.TCP_KEEPIDLE, PROBE_IDLE_SECONDS),
        (socket.TCP_KEEPINTVL, PROBE_INTERVAL_SECONDS),
        (socket.TCP_KEEPCNT, PROBES),
        (socket.TCP_USER_TIMEOUT, UNHEARD_MS_MAX),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def pinned_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # No authority vouches for a certificate that is compared with its fingerprint.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


Connection = Plain | Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is waited for."""

    connect_seconds: float = CONNECT_SECONDS
    answer_seconds: float = ANSWER_SECONDS


class ConnectionPool:
    """Connections to one server, kept and used again. May be used from several threads at once."""

    def __init__(self, host: str, port: int, *, tls: bool, fingerprint: str, patience: Patience) -> None:
        self._host = host
        self._port = port
        self._fingerprint = fingerprint
        self._context = (pinned_context() if fingerprint else ssl.create_default_context()) if tls else None
        self._patience = patience
        self._lock = new_lock()
        self._idle: deque[Connection] = deque()

    def open(self) -> Connection:
        """Return a connection that is not made yet."""
        given = {
            "connect_seconds": self._patience.connect_seconds,
            "answer_seconds": self._patience.answer_seconds,
        }
        if self._context is None:
            return Plain(self._host, self._port, **given)
        return Sealed(self._host, self._port, **given, context=self._context, fingerprint=self._fingerprint)

    def take_idle(self) -> Connection | None:
        """Return a connection that was used before, and which the server has not ended since; None without one."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            poll = select.poll()
            if connection.sock is not None:
                poll.register(connection.sock, select.POLLIN | select.POLLHUP | select.POLLERR)
                if not poll.poll(0):  # nothing to read: the server has not said goodbye
                    return connection
            connection.close()

    def keep(self, connection: Connection) -> None:
        """Put a connection aside for the next call."""
        connection.sock.settimeout(self._patience.answer_seconds)
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Let go of the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()
