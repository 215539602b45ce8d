"""Calls of the table (calls.py) as HTTP requests; what a server answers as values and errors (docs/formats/http.md).

Connections are kept and used again; a stream that somebody reads slowly has one of its own, so nothing waits for it.
What the server refuses becomes the error that it was there. Silence, a lost answer, an answer cut short: Unavailable.
"""

import http.client
import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

from dalsegno.formats import messages
from dalsegno.formats.join import check_fingerprint, split_url
from dalsegno.replicas import calls, wire
from dalsegno.replicas.answers import check
from dalsegno.replicas.calls import Call, Word
from dalsegno.replicas.connections import ANSWER_SECONDS, SEND_BYTES, Connection, ConnectionPool, Patience, Response
from dalsegno.replicas.view import check_realm_name
from dalsegno.replicas.wire import PROTOCOL, PROTOCOL_HEADER
from dalsegno.terms.errors import BadInput, DalError, Moved, NoAccess, Unavailable, error_kinds
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.world.clock import pause

PIECE_SECONDS: Final = 4 * ANSWER_SECONDS
"""How long a piece of a stream may take; a server that sends less does not answer."""
ANSWER_BYTES_MAX: Final = 16 * MIB
"""The largest message; bytes that are objects have no such bound."""
MESSAGE_CHARACTERS_MAX: Final = 2000
ERROR_BYTES_MAX: Final = 64 * KIB
BUSY_TRIES_MAX: Final = 5
BUSY_SECONDS_MAX: Final = 5.0
OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"

_STATUS_CODES: Final = {
    400: "bad-input",
    401: "no-access",
    403: "no-access",
    404: "not-found",
    413: "bad-input",
    421: "moved",
    431: "bad-input",
    507: "full",
}
"""For an answer without our own error in it: from something between us and the server."""
_SECONDS: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
T = TypeVar("T")


class Answer:
    """A success whose body is being read; its connection goes back when that is done."""

    def __init__(self, client: "HttpClient", connection: Connection, response: Response, *, seconds: float) -> None:
        self._client = client
        self._connection: Connection | None = connection
        self._response = response
        self._seconds = seconds

    def read(self, bytes_max: int) -> bytes:
        """Return the whole body; Unavailable when it is larger than `bytes_max`, or does not come."""
        with self:
            self._response.give(self._seconds)
            data = self._read(bytes_max + 1)
            if len(data) > bytes_max:
                raise Unavailable(f"{self._client.label}: the answer is larger than {bytes_max} bytes")
            self._finish()
        return data

    def pieces(self, piece_bytes: int) -> Iterator[bytes]:
        """Yield the body in pieces of this size, but for the last. What cut it short is raised, if the server says."""
        with self:
            try:
                while data := self._piece(piece_bytes):
                    yield data
                self._finish()
            except Unavailable as error:
                raise self._client.why_cut(self._response.headers.get(wire.REQUEST_HEADER, ""), error) from None

    def _piece(self, piece_bytes: int) -> bytes:
        self._response.give(max(PIECE_SECONDS, self._seconds))
        return self._read(piece_bytes)

    def _read(self, count: int) -> bytes:
        try:
            return self._response.read(count)
        except (OSError, http.client.HTTPException) as error:
            raise self._client.lost(error) from None

    def _finish(self) -> None:
        if self._response.length:
            raise Unavailable(f"{self._client.label}: the answer was cut short")
        if self._connection is not None and self._response.isclosed() and not self._response.will_close:
            self._client.connections.keep(self._connection)
            self._connection = None

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._connection is not None:
            self._connection.close()


class HttpClient:
    """Asks one server. May be used from several threads at once."""

    def __init__(self, url: str, token: str, *, name: str, fingerprint: str, patience: Patience) -> None:
        """BadInput for an address or a token that is none, and for a fingerprint where nothing can be compared."""
        host, port, tls = split_url(url)
        if not token.isascii() or not token.isprintable():
            raise BadInput(f"server {url}: its token is none: `dal token add` there makes one")
        self.url = url.rstrip("/")
        self.name = name
        """Empty as long as it is not known."""
        self.told_generation: Callable[[int], None] = lambda generation: None
        """Called with the generation of the realm's key where the server says one."""
        self._token = token
        self.fingerprint = check_fingerprint(fingerprint)
        if self.fingerprint and not tls:
            raise BadInput(f"server {url}: has a fingerprint, which only https can compare: nothing is sent there")
        self._answer_seconds = patience.answer_seconds
        self.connections = ConnectionPool(host, port, tls=tls, fingerprint=self.fingerprint, patience=patience)

    @property
    def label(self) -> str:
        """What people know the server by."""
        return f"{self.name} ({self.url})" if self.name else self.url

    def ask(self, call: Call[T], body: object = None, *, wait_seconds: float | None = None, **words: Word) -> T:
        """Return the message that a call answers, once it is known to be something that can be used.

        Unavailable for no answer or none of this protocol; what the server refuses is raised as it was there.
        """
        answer = self.request(call, body, wait_seconds=wait_seconds, **words)
        data = answer.read(ANSWER_BYTES_MAX)
        try:
            return check(messages.decode(data, call.answer, more=True), volume=str(words.get("volume", "")))
        except BadInput as error:
            raise self.strange(error) from None

    def request(
        self, call: Call[T], body: object = None, *, wait_seconds: float | None = None, **words: Word
    ) -> Answer:
        """Ask, and return the answer to be read. `body`: a message, bytes, or pieces of bytes, as the call has.

        Asked again while the server is busy, or once when it ended the connection, if the call repeats and so does the
        body. Unavailable without an answer, NoAccess before one that is not the pinned server; what the server refuses
        is raised as it was there.
        """
        headers = {PROTOCOL_HEADER: PROTOCOL}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = _body(call, body)
        length = None
        if data is not None:
            headers["Content-Type"] = OCTETS if call.body is bytes else JSON
            data, length = sized(data)
            headers.update({"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)})
        target = call.target(**words)
        repeatable = call.is_repeatable and (data is None or isinstance(data, bytes))
        for _ in range(BUSY_TRIES_MAX):
            connection, response = self._exchange(call.method, target, headers, data, repeatable, wait_seconds)
            if 200 <= response.status < 300:
                self._tell_generation(response)
                return Answer(self, connection, response, seconds=wait_seconds or self._answer_seconds)
            error, wait = self._problem(connection, response)
            if wait is None or not repeatable:
                break
            pause(min(wait, BUSY_SECONDS_MAX))
        raise error

    def _tell_generation(self, response: Response) -> None:
        text = response.headers.get(wire.KEY_HEADER, "")
        if text.isascii() and text.isdecimal() and len(text) < 4:
            self.told_generation(int(text))

    def _exchange(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | Iterable[bytes] | None,
        repeatable: bool,
        wait_seconds: float | None,
    ) -> tuple[Connection, Response]:
        idle = self.connections.take_idle()
        try:
            if idle is not None:
                try:
                    return idle, self._ask(idle, method, target, headers, body, wait_seconds)
                except ConnectionError:
                    # The server closed it at the moment we began: nothing of this was answered, and all calls repeat.
                    if not repeatable:
                        raise
            fresh = self.connections.open()
            return fresh, self._ask(fresh, method, target, headers, body, wait_seconds)
        except (OSError, http.client.HTTPException) as error:
            raise self.lost(error) from None

    def _ask(
        self,
        connection: Connection,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | Iterable[bytes] | None,
        wait_seconds: float | None,
    ) -> Response:
        """Ask over a connection, which is closed when that fails."""
        try:
            if connection.sock is None:
                connection.connect()
            if wait_seconds is not None:
                connection.sock.settimeout(wait_seconds)
            try:
                chunked = "Transfer-Encoding" in headers
                connection.request(method, target, body=body, headers=headers, encode_chunked=chunked)
            except (BrokenPipeError, ConnectionResetError) as error:
                # A server that refuses does not read to the end; its answer may be there all the same.
                try:
                    return connection.getresponse()
                except (OSError, http.client.HTTPException):
                    raise error from None
            return connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _problem(self, connection: Connection, response: Response) -> tuple[DalError, float | None]:
        """Return what the server refused as the error that it is, and how long to wait before asking again."""
        status = response.status
        try:
            data = response.read(ERROR_BYTES_MAX)
            if response.isclosed() and not response.will_close:
                self.connections.keep(connection)
            else:
                connection.close()
        except (OSError, http.client.HTTPException):
            data = b""
            connection.close()
        wait = None
        if status == 429:
            seconds = response.headers.get("Retry-After", "")
            wait = float(seconds) if _SECONDS.fullmatch(seconds) else 1.0
        try:
            problem = messages.decode(data, wire.Problem, more=True)
        except BadInput:
            code = _STATUS_CODES.get(status, "unavailable")
            kind = error_kinds().get(code, Unavailable)
            return kind(f"{self.label}: answered {status} {one_line(response.reason)[:80]}"), wait
        kind = _kind_of(problem.error.code)
        text = f"{self.name or self.url}: {one_line(problem.error.message)}"
        if problem.moved_to is not None or kind is Moved:
            return Moved(text, server=_server_name(problem.moved_to)), None
        return Unavailable(text, answered=True) if kind is Unavailable else kind(text), wait

    # What goes wrong

    def lost(self, error: Exception) -> DalError:
        """Return the error of a server that did not answer, or stopped in the middle."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return NoAccess(
                f"{self.label}: nobody that this system trusts vouches for its certificate ({error.verify_message}): "
                "join it with its fingerprint"
            )
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            reason = "no answer in time"
        elif isinstance(error, http.client.HTTPException):
            reason = f"the answer was lost ({type(error).__name__})"
        return Unavailable(f"{self.label}: {' '.join(str(reason).split())}")

    def why_cut(self, request_id: str, error: DalError) -> DalError:
        """Return why the server cut an answer short, or `error` when it knows nothing of that, or is gone."""
        if not request_id.isalnum():
            return error
        try:
            failure = self.ask(calls.FAILURE, request_id=request_id).error
        except DalError:
            return error
        kind = _kind_of(failure.code)
        return kind(f"{self.name or self.url}: {one_line(failure.message)}")

    def strange(self, error: BadInput) -> DalError:
        """Return the error of an answer that is none."""
        return Unavailable(
            f"{self.label}: the answer is not one of protocol {PROTOCOL}, and not used: {one_line(str(error))}"
        )


def _body(call: Call[T], body: object) -> bytes | Iterable[bytes] | None:
    if call.body is None or call.body is bytes:
        assert (body is None) == (call.body is None), f"{call.name}: body"
        pieces: bytes | Iterable[bytes] | None = body  # type: ignore[assignment]
        return pieces
    assert isinstance(body, call.body), f"{call.name}: body"
    return messages.encode(body)


def _kind_of(code: str) -> type[DalError]:
    """Return the error that a server names. That a commit waits on this machine is not a server's to say."""
    kind = error_kinds().get(code, DalError)
    return Unavailable if issubclass(kind, Unavailable) else kind


def _server_name(place: wire.Place | None) -> str:
    """Return where a volume is now; empty for what is no name of a server."""
    with suppress(BadInput):
        return check_realm_name(place.name) if place is not None else ""
    return ""


def one_line(text: str) -> str:
    """Return what a server says fit to be shown: it may be anybody's."""
    line = " ".join(text.split())[:MESSAGE_CHARACTERS_MAX]
    return "".join(c if c.isprintable() else "?" for c in line)


def sized(pieces: bytes | Iterable[bytes]) -> tuple[bytes | Iterable[bytes], int | None]:
    """Return a body to send and its length, None when nobody knows: what is small enough is looked at first."""
    if isinstance(pieces, bytes | bytearray | memoryview):
        return bytes(pieces), len(pieces)
    if isinstance(pieces, list | tuple):
        length = sum(map(len, pieces))
        return (b"".join(pieces), length) if length <= SEND_BYTES else (pieces, length)
    source = iter(pieces)
    first: list[bytes] = []
    held = 0
    for piece in source:
        first.append(piece)
        held += len(piece)
        if held > SEND_BYTES:
            return _joined(first, source), None
    return b"".join(first), held


def _joined(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces large enough that framing them costs little, and none that is empty, which would end a body."""
    buffer = bytearray().join(first)
    for piece in rest:
        if len(buffer) >= SEND_BYTES:
            yield bytes(buffer)
            buffer.clear()
        buffer += piece
    if buffer:
        yield bytes(buffer)
