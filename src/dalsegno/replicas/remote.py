"""A server as a Site: each call is one HTTP request (docs/formats/http.md).

Connections are kept and used again; a stream that somebody reads slowly has one of its own, so nothing waits for it.
What the server refuses becomes the error that it was there. Silence, a lost answer, an answer cut short: Unavailable.
"""

import http.client
import os
import re
import select
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Final, TypeVar, cast
from urllib.parse import quote, urlencode

from blake3 import blake3

from dalsegno.chunks.realm import CHUNK_SEED_MAX, Realm, WriteKey
from dalsegno.formats import messages
from dalsegno.formats.join import Join, check_fingerprint, split_url
from dalsegno.formats.object_records import Record, decode_records
from dalsegno.formats.object_rows import ROW_BYTES, are_possible
from dalsegno.replicas import wire
from dalsegno.replicas.answers import check, check_named_clone
from dalsegno.replicas.blocks import BlockSource
from dalsegno.replicas.connections import SEND_BYTES, Connection, Plain, Response, Sealed, pinned_context
from dalsegno.replicas.contract import BLOCK_ANSWER_BYTES_MAX, LEASE_SECONDS
from dalsegno.replicas.view import Placed, RealmView, check_realm_name
from dalsegno.replicas.wire import PROTOCOL, PROTOCOL_HEADER
from dalsegno.terms.errors import BadInput, DalError, Moved, NoAccess, Unavailable, error_kinds
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES, ObjectId
from dalsegno.terms.sizes import KIB, MIB
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import DumpRecord, Release, ReplicaSet, VolumeState, readable
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import pause
from dalsegno.world.workers import new_lock

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 300.0
"""How long a server may think. One that died is noticed earlier: the network's own probes do."""
WATCH_MARGIN_SECONDS: Final = 20.0
PIECE_SECONDS: Final = 4 * ANSWER_SECONDS
"""How long a piece of a stream may take; a server that sends less does not answer."""
PIECE_BYTES: Final = MIB
ROWS_BYTES: Final = ROW_BYTES * (MIB // ROW_BYTES)
ROWS_MAX: Final = 1 << 28
"""So many rows of `missing` are more objects than any volume has."""
ANSWER_BYTES_MAX: Final = 16 * MIB
"""The largest message; bytes that are objects have no such bound."""
MESSAGE_CHARACTERS_MAX: Final = 2000
ERROR_BYTES_MAX: Final = 64 * KIB
IDLE_CONNECTIONS_MAX: Final = 16
BUSY_TRIES_MAX: Final = 5
BUSY_SECONDS_MAX: Final = 5.0

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
NewerKey = Callable[[int, Callable[[], Realm]], None]


class _Answer:
    """A success whose body is being read; its connection goes back when that is done."""

    def __init__(self, site: "RemoteSite", connection: Connection, response: Response, *, seconds: float) -> None:
        self._site = site
        self._connection: Connection | None = connection
        self._response = response
        self._seconds = seconds

    def read(self, bytes_max: int) -> bytes:
        """Return the whole body."""
        with self:
            self._response.give(self._seconds)
            data = self._read(bytes_max + 1)
            if len(data) > bytes_max:
                raise Unavailable(f"{self._site.label}: the answer is larger than {bytes_max} bytes")
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
                raise self._site.why_cut(self._response.headers.get(wire.REQUEST_HEADER, ""), error) from None

    def _piece(self, piece_bytes: int) -> bytes:
        self._response.give(max(PIECE_SECONDS, self._seconds))
        return self._read(piece_bytes)

    def _read(self, count: int) -> bytes:
        try:
            return self._response.read(count)
        except (OSError, http.client.HTTPException) as error:
            raise self._site.lost(error) from None

    def _finish(self) -> None:
        if self._response.length:
            raise Unavailable(f"{self._site.label}: the answer was cut short")
        if self._connection is not None and self._response.isclosed() and not self._response.will_close:
            self._site.keep(self._connection)
            self._connection = None

    def __enter__(self) -> "_Answer":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._connection is not None:
            self._connection.close()


class RemoteSite:
    """A Site (contract.py) on the other side of the network. May be used from several threads at once."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        name: str = "",
        fingerprint: str = "",
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        rows_max: int = ROWS_MAX,
        newer_key: NewerKey | None = None,
    ) -> None:
        """`newer_key` is called with the generation of the realm's key where the server says one, and what gets it."""
        self._newer_key = newer_key
        self._host, self._port, self._tls = split_url(url)
        if not token.isascii() or not token.isprintable():
            raise BadInput(f"server {url}: its token is none: `dal token add` there makes one")
        self.url = url.rstrip("/")
        self._name = name
        self._token = token
        self._fingerprint = check_fingerprint(fingerprint)
        if self._fingerprint and not self._tls:
            raise BadInput(f"server {url}: has a fingerprint, which only https can compare: nothing is sent there")
        self._context = (pinned_context() if fingerprint else ssl.create_default_context()) if self._tls else None
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._rows_max = rows_max
        self._lock = new_lock()
        self._idle: deque[Connection] = deque()

    @classmethod
    def from_join(
        cls, join: Join, *, connect_seconds: float = CONNECT_SECONDS, answer_seconds: float = ANSWER_SECONDS
    ) -> "RemoteSite":
        """Return the server that a join string names."""
        return cls(
            join.url,
            join.token,
            name=join.name,
            fingerprint=join.fingerprint,
            connect_seconds=connect_seconds,
            answer_seconds=answer_seconds,
        )

    def close(self) -> None:
        """Let go of the connections that nobody uses."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    @property
    def name(self) -> str:
        """The server's name in its realm; asked for when it was not given."""
        if not self._name:
            self._name = self.server().name
        return self._name

    @property
    def label(self) -> str:
        """What people know the server by."""
        return f"{self._name} ({self.url})" if self._name else self.url

    # Connections

    def _open(self) -> Connection:
        if self._context is None:
            return Plain(
                self._host, self._port, connect_seconds=self._connect_seconds, answer_seconds=self._answer_seconds
            )
        return Sealed(
            self._host,
            self._port,
            connect_seconds=self._connect_seconds,
            answer_seconds=self._answer_seconds,
            context=self._context,
            fingerprint=self._fingerprint,
        )

    def _idle_connection(self) -> Connection | None:
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
        connection.sock.settimeout(self._answer_seconds)
        with self._lock:
            if len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
                return
        connection.close()

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
            failure = self._ask_value("GET", f"/v1/failures/{request_id}", wire.Problem).error
        except DalError:
            return error
        kind = _kind_of(failure.code)
        return kind(f"{self._name or self.url}: {_one_line(failure.message)}")

    # Requests

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        media: str = "application/octet-stream",
        length: int | None = None,
        wait_seconds: float | None = None,
        repeatable: bool = True,
    ) -> _Answer:
        target = path + ("?" + urlencode(query, quote_via=quote) if query else "")
        headers = {PROTOCOL_HEADER: PROTOCOL}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["Content-Type"] = media
        repeatable = repeatable and (body is None or isinstance(body, bytes))
        if isinstance(body, bytes):
            length = len(body)
        if length is not None:
            headers["Content-Length"] = str(length)
        elif body is not None:
            headers["Transfer-Encoding"] = "chunked"
        for _ in range(BUSY_TRIES_MAX):
            connection, response = self._exchange(method, target, headers, body, repeatable, wait_seconds)
            if 200 <= response.status < 300:
                self._tell_generation(response)
                return _Answer(self, connection, response, seconds=wait_seconds or self._answer_seconds)
            error, wait = self._problem(connection, response)
            if wait is None or not repeatable:
                break
            pause(min(wait, BUSY_SECONDS_MAX))
        raise error

    def _tell_generation(self, response: Response) -> None:
        text = response.headers.get(wire.KEY_HEADER, "")
        if self._newer_key is not None and text.isascii() and text.isdecimal() and len(text) < 4:
            self._newer_key(int(text), self.key)

    def _exchange(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | Iterable[bytes] | None,
        repeatable: bool,
        wait_seconds: float | None,
    ) -> tuple[Connection, Response]:
        connection = self._idle_connection()
        if connection is not None:
            try:
                return connection, self._ask(connection, method, target, headers, body, wait_seconds)
            except (ConnectionError, http.client.RemoteDisconnected) as error:
                # The server closed it at the moment we began: nothing of this was answered, and all calls repeat.
                connection.close()
                if not repeatable:
                    raise self.lost(error) from None
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise self.lost(error) from None
            except BaseException:
                connection.close()
                raise
        connection = self._open()
        try:
            return connection, self._ask(connection, method, target, headers, body, wait_seconds)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self.lost(error) from None
        except BaseException:
            connection.close()
            raise

    def _ask(
        self,
        connection: Connection,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes | Iterable[bytes] | None,
        wait_seconds: float | None,
    ) -> Response:
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

    def _problem(self, connection: Connection, response: Response) -> tuple[DalError, float | None]:
        """Return what the server refused as the error that it is, and how long to wait before asking again."""
        status = response.status
        try:
            data = response.read(ERROR_BYTES_MAX)
            if response.isclosed() and not response.will_close:
                self.keep(connection)
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
            return kind(f"{self.label}: answered {status} {_one_line(response.reason)[:80]}"), wait
        kind = _kind_of(problem.error.code)
        text = f"{self._name or self.url}: {_one_line(problem.error.message)}"
        if problem.moved_to is not None or kind is Moved:
            return Moved(text, server=_server_name(problem.moved_to)), None
        return Unavailable(text, answered=True) if kind is Unavailable else kind(text), wait

    def _lease_secret(self, owner: str) -> bytes:
        """Return what proves to this server that a lease is `owner`'s, who is in this process; to no other server."""
        key = _secret_of_process(os.getpid())
        return blake3(f"{self.url}\0{self._fingerprint}\0{owner}".encode(), key=key).digest(length=UUID_BYTES)

    def _volume(self, volume: str, call: str) -> str:
        return f"/v1/volumes/{quote(volume, safe='')}/{call}"

    def _ask_value(
        self, method: str, path: str, kind: type[T], value: object = None, *, volume: str = "", **query: str
    ) -> T:
        body = messages.encode(value) if value is not None else None
        answer = self._request(method, path, query=query, body=body, media="application/json")
        return self._value(answer, kind, volume=volume)

    def _ask_state(self, method: str, volume: str, call: str, value: object = None, **query: str) -> VolumeState:
        return self._ask_value(method, self._volume(volume, call), VolumeState, value, volume=volume, **query)

    def _value(self, answer: _Answer, kind: type[T], *, volume: str = "") -> T:
        """Return what an answer says, once it is known to be something that can be used."""
        data = answer.read(ANSWER_BYTES_MAX)
        try:
            return self._readable(check(messages.decode(data, kind, more=True), volume=volume))
        except BadInput as error:
            raise self._strange(error) from None

    def _readable(self, answer: T) -> T:
        """Return an answer; the older clones of its states are asked for here when somebody wants them."""
        if isinstance(answer, VolumeState):
            return cast(T, readable(answer, BlockSource(self, answer.name), vet=self._vet_clone))
        if isinstance(answer, wire.States):
            return cast(T, wire.States(volumes=[self._readable(state) for state in answer.volumes]))
        return answer

    def _vet_clone(self, name: str, clone: Clone) -> None:
        try:
            check_named_clone(name, clone)
        except BadInput as error:
            raise self._strange(error) from None

    def _strange(self, error: BadInput) -> DalError:
        return Unavailable(
            f"{self.label}: the answer is not one of protocol {PROTOCOL}, and not used: {_one_line(str(error))}"
        )

    # Besides the volumes

    def server(self) -> wire.ServerInfo:
        """Return who answers."""
        return self._ask_value("GET", "/v1/server", wire.ServerInfo)

    def key(self) -> Realm:
        """Return the realm's key, which its members share; a WriteKey when this token may not read."""
        key = self._ask_value("GET", "/v1/key", wire.RealmKey)
        if key.secret:
            return Realm(key.secret, older=key.older)
        seed = int.from_bytes(key.chunk_seed, "little") & CHUNK_SEED_MAX
        return WriteKey(
            realm_id=key.realm,
            id_key=key.id_key,
            chunk_seed=seed,
            recipient=key.recipient,
            generation=key.generation,
        )

    def view(self) -> RealmView:
        """Return the realm's directory as the server knows it; NotFound when it has none."""
        return self._ask_value("GET", "/v1/realm", RealmView)

    def publish(self, placed: Placed) -> None:
        """Have the directory say where a volume is."""
        self._ask_value("PUT", f"/v1/realm/volumes/{quote(placed.name, safe='')}", wire.Done, placed)

    def forget(self, volume: str) -> None:
        """Have the directory forget where a volume is."""
        self._ask_value("DELETE", f"/v1/realm/volumes/{quote(volume, safe='')}", wire.Done)

    def remove_server(self, name: str) -> None:
        """Have the directory forget a server that holds nothing."""
        self._ask_value("DELETE", f"/v1/realm/servers/{quote(name, safe='')}", wire.Done)

    def tokens(self) -> list[wire.TokenView]:
        """Return the server's tokens."""
        return self._ask_value("GET", "/v1/tokens", wire.Tokens).tokens

    def add_token(self, wanted: wire.NewToken) -> wire.MadeToken:
        """Have a token made."""
        # Of all calls only this one would do more when it is done again.
        body = messages.encode(wanted)
        answer = self._request("POST", "/v1/tokens", body=body, media="application/json", repeatable=False)
        return self._value(answer, wire.MadeToken)

    def revoke_token(self, token_id: str) -> wire.TokenView:
        """Have a token revoked."""
        return self._ask_value("DELETE", f"/v1/tokens/{quote(token_id, safe='')}", wire.TokenView)

    def dump(
        self,
        volume: str,
        *,
        clone: str = "",
        level: int | None = None,
        base: str = "",
        taken_at_ns: int = 0,
        recipients: Sequence[str] = (),
    ) -> Iterator[bytes]:
        """Yield the bytes of a dump that the server writes, and does not record; `recipients` open it, too."""
        keys = ",".join(recipients)
        if len(keys) > wire.RECIPIENTS_CHARACTERS_MAX:
            raise BadInput(f"{len(recipients)} readers: too many for one dump from a server: make another for some")
        taken = str(taken_at_ns) if taken_at_ns else ""
        query = {"clone": clone, "level": "" if level is None else str(level), "base": base, "taken": taken}
        query["recipients"] = keys
        query = {key: value for key, value in query.items() if value}
        return self._request("GET", self._volume(volume, "dump"), query=query).pieces(PIECE_BYTES)

    def record(self, volume: str, record: DumpRecord) -> VolumeState:
        """Have a durable dump noted as a base of later ones."""
        return self._ask_state("POST", volume, "record", record)

    def forget_dump(self, volume: str, dump_id: bytes) -> VolumeState:
        """Have a dump forgotten: later ones no longer build on it."""
        return self._ask_state("POST", volume, "forget_dump", dump=dump_id.hex())

    def dump_size(self, dump_id: bytes) -> int:
        """Return how many bytes of an uploaded dump are there."""
        return self._ask_value("GET", f"/v1/dumps/{dump_id.hex()}", wire.Size).size

    def send_dump(self, dump_id: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        """Add bytes to an uploaded dump at `offset`, and return its size."""
        body, length = _sized(pieces)
        answer = self._request(
            "PUT", f"/v1/dumps/{dump_id.hex()}", query={"offset": str(offset)}, body=body, length=length
        )
        return self._value(answer, wire.Size).size

    def drop_dump(self, dump_id: bytes) -> None:
        """Have an uploaded dump forgotten."""
        self._ask_value("DELETE", f"/v1/dumps/{dump_id.hex()}", wire.Done)

    def load(self, volume: str, dumps: Sequence[bytes]) -> VolumeState:
        """Make a volume of uploaded dumps, or bring one forward by increments."""
        return self._ask_state("POST", volume, "load", wire.Load(dumps=list(dumps)))

    # What is there

    def states(self) -> list[VolumeState]:
        """Return the volumes that the token may see, by name."""
        return self._ask_value("GET", "/v1/states", wire.States).volumes

    def state(self, volume: str) -> VolumeState:
        """Return a volume's state, by name."""
        return self._ask_state("GET", volume, "state")

    # Objects out

    def block(self, volume: str, identity: ObjectId, *, bytes_max: int = BLOCK_ANSWER_BYTES_MAX) -> list[Record]:
        """Return an object and those stored beside it, about `bytes_max` bytes. Who asks checks each by its id."""
        query = {"id": identity.hex(), **({"most": str(bytes_max)} if bytes_max < BLOCK_ANSWER_BYTES_MAX else {})}
        answer = self._request("GET", self._volume(volume, "block"), query=query)
        return list(decode_records(answer.read(wire.BLOCK_BYTES_MAX)))

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        """Yield rows (many joined at a time) for what `targets` reach and the newest fitting of `bases` does not."""
        body = messages.encode(wire.Missing(targets=list(targets), bases=list(bases)))
        answer = self._request("POST", self._volume(volume, "missing"), body=body, media="application/json")
        return self._rows(answer)

    def _rows(self, answer: _Answer) -> Iterator[bytes]:
        row_count = 0
        for piece in answer.pieces(ROWS_BYTES):
            row_count += len(piece) // ROW_BYTES
            if len(piece) % ROW_BYTES or row_count > self._rows_max:
                raise Unavailable(f"{self.label}: the answer was cut short, or has no end")
            if not are_possible(piece):
                raise self._strange(BadInput("a row of what is missing is of no kind, or of too many bytes"))
            yield piece

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Yield the bytes of a pack (kind pool) that holds exactly the objects with these joined ids."""
        return self._request("POST", self._volume(volume, "objects"), body=bytes(ids)).pieces(PIECE_BYTES)

    # Objects in

    def have(self, volume: str, ids: bytes) -> bytes:
        """Return one byte for each of the joined ids: 1 when the object, with all that it names, is there to stay."""
        count = len(ids) // OBJECT_ID_BYTES
        there = self._request("POST", self._volume(volume, "have"), body=bytes(ids)).read(count)
        if len(there) != count:
            raise Unavailable(f"{self.label}: {len(there)} answers to {count} questions")
        return there

    def upload_size(self, volume: str, upload: bytes) -> int:
        """Return how many bytes of an upload (named by its pack id) are there; 0 for one never begun."""
        return self._ask_value("GET", self._volume(volume, f"uploads/{upload.hex()}"), wire.Size).size

    def upload(self, volume: str, upload: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        """Add bytes to an upload at `offset`, which must be at most its size, and return its size, durable."""
        body, length = _sized(pieces)
        answer = self._request(
            "PUT",
            self._volume(volume, f"uploads/{upload.hex()}"),
            query={"offset": str(offset)},
            body=body,
            length=length,
        )
        return self._value(answer, wire.Size).size

    def adopt(self, volume: str, uploads: Sequence[bytes]) -> None:
        """Have whole uploads checked and kept."""
        self._ask_value("POST", self._volume(volume, "adopt"), wire.Done, wire.Adopt(uploads=list(uploads)))

    def commit(
        self,
        volume: str,
        revision: bytes,
        upload: bytes,
        pieces: Iterable[bytes],
        *,
        common: bytes = b"",
        owner: str = "",
    ) -> VolumeState:
        """Do upload (whole, from 0), adopt, advance to `revision` and, with `common`, agree on that: in one call."""
        body, length = _sized(pieces)
        given = {"revision": revision.hex(), "upload": upload.hex(), "common": common.hex(), "owner": owner}
        given["secret"] = self._lease_secret(owner).hex() if owner else ""
        query = {key: value for key, value in given.items() if value}
        answer = self._request("POST", self._volume(volume, "commit"), query=query, body=body, length=length)
        return self._value(answer, VolumeState, volume=volume)

    # What moves

    def create(self, state: VolumeState) -> VolumeState:
        """Make an empty volume with this id, name, role, replica set and settings; the same again is no error."""
        made = self._ask_state("POST", state.name, "create", state)
        if made.id != state.id:
            raise self._strange(BadInput(f"volume {state.name!r}: it has another id"))
        return made

    def remove(self, volume: str) -> None:
        """Forget a volume on this server."""
        self._ask_value("POST", self._volume(volume, "remove"), wire.Done)

    def advance(self, volume: str, revision: bytes, *, owner: str = "") -> VolumeState:
        """Move the head forward to `revision`, which is there whole, and return the state."""
        body = wire.Advance(revision=revision, owner=owner, secret=self._lease_secret(owner) if owner else b"")
        return self._ask_state("POST", volume, "advance", body)

    def reopen(self, volume: str, *, at_ns: int, content: bytes = b"") -> VolumeState:
        """Have a revision of `at_ns` put in the place of a head of the future."""
        body = wire.Reopen(at_ns=at_ns, revision=content)
        return self._ask_state("POST", volume, "reopen", body)

    def agree(self, volume: str, revision: bytes, *, uncloned: Mapping[str, Sequence[Clone]] = {}) -> None:
        """Note that every writer has `revision`, and forget tombstones that every writer has."""
        body = wire.Agree(revision=revision, uncloned={name: list(clones) for name, clones in uncloned.items()})
        self._ask_value("POST", self._volume(volume, "agree"), wire.Done, body)

    def freeze(self, volume: str, *, owner: str, seconds: int = LEASE_SECONDS) -> VolumeState:
        """Freeze, or freeze on, for `owner`, and return the state."""
        body = wire.Freeze(owner=owner, secret=self._lease_secret(owner), seconds=seconds)
        return self._ask_state("POST", volume, "freeze", body)

    def thaw(self, volume: str, *, owner: str) -> None:
        """End the lease of `owner`; one that ended by itself is no error."""
        body = wire.Thaw(owner=owner, secret=self._lease_secret(owner))
        self._ask_value("POST", self._volume(volume, "thaw"), wire.Done, body)

    def clone(self, volume: str, name: str, clone: Clone) -> VolumeState:
        """Name a revision that is there whole."""
        body = wire.NamedClone(name=name, clone=clone)
        return self._ask_state("POST", volume, "clone", body)

    def unclone(self, volume: str, name: str, clone: Clone, *, here_only: bool = False) -> VolumeState:
        """Forget a clone and, without `here_only`, remember that."""
        body = wire.Unclone(name=name, clone=clone, here_only=here_only)
        return self._ask_state("POST", volume, "unclone", body)

    def arrange(self, volume: str, replicas: ReplicaSet) -> VolumeState:
        """Have a replica set with a larger version taken."""
        return self._ask_state("POST", volume, "arrange", replicas)

    def switch(self, volume: str, release: Release) -> VolumeState:
        """Have a release shown, whose revision is there whole."""
        return self._ask_state("POST", volume, "switch", release)

    def watch(self, volume: str, head: bytes, *, seconds: float, follower: str = "") -> VolumeState:
        """Return the state as soon as the head is not `head`, or after `seconds`; note how far `follower` is."""
        asked = min(seconds, float(wire.WATCH_SECONDS_MAX))
        given = {"head": head.hex(), "seconds": f"{asked:.3f}", "follower": follower}
        query = {key: value for key, value in given.items() if value}
        answer = self._request(
            "GET", self._volume(volume, "watch"), query=query, wait_seconds=asked + WATCH_MARGIN_SECONDS
        )
        return self._value(answer, VolumeState, volume=volume)


def _kind_of(code: str) -> type[DalError]:
    """Return the error that a server names. That a commit waits on this machine is not a server's to say."""
    kind = error_kinds().get(code, DalError)
    return Unavailable if issubclass(kind, Unavailable) else kind


def _server_name(place: wire.Place | None) -> str:
    """Return where a volume is now; empty for what is no name of a server."""
    with suppress(BadInput):
        return check_realm_name(place.name) if place is not None else ""
    return ""


@cache
def _secret_of_process(pid: int) -> bytes:
    return random_bytes(32)


def _one_line(text: str) -> str:
    """Return what a server says fit to be shown: it may be anybody's."""
    line = " ".join(text.split())[:MESSAGE_CHARACTERS_MAX]
    return "".join(c if c.isprintable() else "?" for c in line)


def _sized(pieces: Iterable[bytes]) -> tuple[bytes | Iterable[bytes], int | None]:
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
