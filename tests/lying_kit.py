"""A server that lies: it answers anything, or what a real one says with something in it that was changed.

with Liar() as liar:
    liar.lie = lambda asked: Said(body=b"...")          # for every request
    site = RemoteSite(liar.url, "token")

with Liar(upstream=server) as liar: ...                 # what is not lied about is what `server` says
"""

import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dalsegno.replicas.calls import CALLS
from server_kit import Server

PATIENCE_SECONDS = 60
JSON_TYPE = "application/json"
OCTETS_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Asked:
    """One request."""

    call: str
    """Its name in the table of calls; empty for a path that is none."""
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    ask: Callable[..., "Said"]
    """Asks the real server for a method and a path, with the token of whoever asked this."""

    def honest(self) -> "Said":
        """Return what the real server says to it."""
        return self.ask(self.method, self.path, self.body)


@dataclass(frozen=True)
class Said:
    """An answer."""

    body: bytes | Iterable[bytes] = b""
    """Pieces are sent as they come, each as a chunk, for as long as somebody reads."""
    status: int = 200
    reason: str = "OK"
    media: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | Iterable[bytes] | None = None
    """Sent as it is, instead of all that."""


Lie = Callable[[Asked], Said]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(path)))


_PATHS = [(call.method, _pattern(call.path), call.name) for call in CALLS]


def call_name(method: str, target: str) -> str:
    """Return what the table of calls calls a request."""
    path = target.partition("?")[0]
    return next((name for wanted, path_of, name in _PATHS if wanted == method and path_of.fullmatch(path)), "")


def nothing(asked: Asked) -> Said:
    return Said(status=404, body=b'{"error":{"code":"not-found","message":"nothing here"}}')


class Liar:
    """A listening server; `lie` says what it answers."""

    def __init__(self, *, upstream: Server | None = None) -> None:
        self.lie: Lie = nothing if upstream is None else lambda asked: asked.honest()
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Liar":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, sock.makefile("rb") as stream:
                sock.settimeout(PATIENCE_SECONDS)
                while asked := self._read(stream):
                    self.asked.append(asked)
                    if not self._send(sock, self.lie(asked)):
                        return
        except (OSError, ValueError):
            return
        finally:
            self._open.discard(sock)

    def _read(self, stream: Any) -> Asked | None:
        words = stream.readline(65536).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = dict(http.client.parse_headers(stream).items())
        length = {name.lower(): value for name, value in headers.items()}
        body = stream.read(int(length.get("content-length", 0)))
        if length.get("transfer-encoding") == "chunked":
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
            stream.readline()
        method, path = words[0], words[1]

        def ask(method: str, path: str, body: bytes = b"") -> Said:
            return self._honest(method, path, headers, body)

        return Asked(call_name(method, path), method, path, headers, body, ask)

    def _honest(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Said:
        assert self._upstream is not None, "there is no real server behind this one"
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            kept = {name: value for name, value in headers.items() if name.lower() in ("authorization", "content-type")}
            connection.request(method, path, body=body, headers=kept)
            response = connection.getresponse()
            media = response.headers.get("Content-Type", OCTETS_TYPE)
            return Said(status=response.status, reason=response.reason, media=media, body=response.read())

    def _send(self, sock: socket.socket, said: Said) -> bool:
        """Send an answer; return whether the connection may be used again."""
        if said.raw is not None:
            for piece in [said.raw] if isinstance(said.raw, bytes) else said.raw:
                sock.sendall(piece)
                self.sent_bytes += len(piece)
            return False
        framing = f"Content-Length: {len(said.body)}" if isinstance(said.body, bytes) else "Transfer-Encoding: chunked"
        more = "".join(f"{name}: {value}\r\n" for name, value in said.headers.items())
        head = f"HTTP/1.1 {said.status} {said.reason}\r\nContent-Type: {said.media}\r\n{more}{framing}\r\n\r\n"
        if isinstance(said.body, bytes):
            sock.sendall(head.encode("latin-1") + said.body)
            self.sent_bytes += len(said.body)
            return True
        sock.sendall(head.encode("latin-1"))
        for piece in said.body:
            sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.sent_bytes += len(piece)
        sock.sendall(b"0\r\n\r\n")
        return True


def says(value: Any, **more: Any) -> Said:
    """Return a message."""
    return Said(body=json.dumps(value).encode("utf-8", "surrogatepass"), **more)


def endless(piece: bytes, *, before: bytes = b"") -> Iterator[bytes]:
    """Yield pieces without an end."""
    yield before or piece
    while True:
        yield piece


# What may stand in the place of a value

ESC = "\x1b]0;owned\x07\x1b[2J"
BAD_NAMES = (
    "../../victim",
    "/victim",
    ".hidden",
    "..",
    ".",
    "",
    "a/b",
    "a\x00b",
    "a\nb",
    "name\n",
    ESC,
    "-rf",
    "$(touch victim)",
    "@",
    "n" * 5000,
    "\ud800",
)
"""Names that no volume and no clone may have."""
BAD_NUMBERS = (-1, 2**62 + 1, 2**63, 10**30, True, 1.5, "1", None, [], 1e308)
BAD_IDS = ("", "00", "00" * 15, "00" * 33, "00" * 4096, "zz" * 16, "0" * 31, 5, None, ["00"], "../../victim")
BAD_TYPES: tuple[Any, ...] = (None, 5, "text", [], {}, [[]], [None], {"a": {"b": 1}}, True)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every place in plain JSON, and what is there."""
    yield at, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """Return plain JSON with something else in one place."""
    if not at:
        return new
    if isinstance(value, dict):
        return {key: replaced(item, at[1:], new) if key == at[0] else item for key, item in value.items()}
    return [replaced(item, at[1:], new) if index == at[0] else item for index, item in enumerate(value)]


def renamed(value: Any, at: tuple[Any, ...], new: str) -> Any:
    """Return plain JSON with another key in the place of one."""
    if len(at) == 1:
        return {new if key == at[0] else key: item for key, item in value.items()}
    if isinstance(value, dict):
        return {key: renamed(item, at[1:], new) if key == at[0] else item for key, item in value.items()}
    return [renamed(item, at[1:], new) if index == at[0] else item for index, item in enumerate(value)]
