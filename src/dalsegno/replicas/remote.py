"""A server as a Site: each call is one HTTP request (docs/formats/http.md), made by http_client.py from calls.py."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Final

from blake3 import blake3

from dalsegno.chunks.realm import CHUNK_SEED_MAX, Realm, WriteKey
from dalsegno.formats.join import Join
from dalsegno.formats.object_records import Record, decode_records
from dalsegno.formats.object_rows import ROW_BYTES, are_possible
from dalsegno.replicas import calls, wire
from dalsegno.replicas.answers import check_named_clone, check_record
from dalsegno.replicas.blocks import BlockSource
from dalsegno.replicas.calls import Call, Word
from dalsegno.replicas.connections import Patience
from dalsegno.replicas.contract import BLOCK_ANSWER_BYTES_MAX, LEASE_SECONDS
from dalsegno.replicas.http_client import Answer, HttpClient
from dalsegno.replicas.view import Placed, RealmView
from dalsegno.terms.errors import BadInput, Unavailable
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES, ObjectId
from dalsegno.terms.sizes import MIB
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import Release, ReplicaSet, VolumeState, readable, told_whole
from dalsegno.world.chance import random_bytes

WATCH_MARGIN_SECONDS: Final = 20.0
PIECE_BYTES: Final = MIB
ROWS_BYTES: Final = ROW_BYTES * (MIB // ROW_BYTES)
ROWS_MAX: Final = 1 << 28
"""So many rows of `missing` are more objects than any volume has."""
NewerKey = Callable[[int, Callable[[], Realm]], None]


CHECKS_LATER: Final[tuple[Callable[..., None], ...]] = (check_named_clone, check_record)
"""What a clone and a dump of a table pass when they are read."""


def _checked(check: Callable[..., None], client: HttpClient, *what: object) -> None:
    try:
        check(*what)
    except BadInput as error:
        raise client.strange(error) from None


class RemoteSite:
    """A Site (contract.py) on the other side of the network. May be used from several threads at once."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        name: str = "",
        fingerprint: str = "",
        patience: Patience = Patience(),
        rows_max: int = ROWS_MAX,
        newer_key: NewerKey | None = None,
    ) -> None:
        """`newer_key` is called with the generation of the realm's key where the server says one, and what gets it."""
        self.client = HttpClient(url, token, name=name, fingerprint=fingerprint, patience=patience)
        if newer_key is not None:
            self.client.told_generation = lambda generation: newer_key(generation, self.key)
        self.url = self.client.url
        self._rows_max = rows_max

    @classmethod
    def from_join(cls, join: Join, *, patience: Patience = Patience()) -> "RemoteSite":
        """Return the server that a join string names."""
        return cls(join.url, join.token, name=join.name, fingerprint=join.fingerprint, patience=patience)

    def close(self) -> None:
        """Let go of the connections that nobody uses."""
        self.client.connections.close()

    @property
    def name(self) -> str:
        """The server's name in its realm; asked for when it was not given."""
        if not self.client.name:
            self.client.name = self.server().name
        return self.client.name

    @property
    def label(self) -> str:
        """What people know the server by."""
        return self.client.label

    def _lease_secret(self, owner: str) -> bytes:
        """Return what proves to this server that a lease is `owner`'s, who is in this process; to no other server."""
        key = _secret_of_process(os.getpid())
        return blake3(f"{self.url}\0{self.client.fingerprint}\0{owner}".encode(), key=key).digest(length=UUID_BYTES)

    def _state(
        self,
        call: Call[VolumeState],
        volume: str,
        body: object = None,
        *,
        wait_seconds: float | None = None,
        **words: Word,
    ) -> VolumeState:
        return self._readable(self.client.ask(call, body, wait_seconds=wait_seconds, volume=volume, **words))

    def _readable(self, state: VolumeState) -> VolumeState:
        """Return a state whose older clones are asked for here when somebody wants them."""
        return readable(state, BlockSource(self, state.name), *map(self._vet, CHECKS_LATER))

    def _vet(self, check: Callable[..., None]) -> Callable[..., None]:
        return partial(_checked, check, self.client)

    # Besides the volumes

    def server(self) -> wire.ServerInfo:
        """Return who answers."""
        return self.client.ask(calls.SERVER)

    def key(self) -> Realm:
        """Return the realm's key, which its members share; a WriteKey when this token may not read."""
        key = self.client.ask(calls.KEY)
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
        return self.client.ask(calls.REALM)

    def publish(self, placed: Placed) -> None:
        """Have the directory say where a volume is."""
        self.client.ask(calls.PUBLISH, placed, volume=placed.name)

    def forget(self, volume: str) -> None:
        """Have the directory forget where a volume is."""
        self.client.ask(calls.FORGET, volume=volume)

    def remove_server(self, name: str) -> None:
        """Have the directory forget a server that holds nothing."""
        self.client.ask(calls.REMOVE_SERVER, server=name)

    def tokens(self) -> list[wire.TokenView]:
        """Return the server's tokens."""
        return self.client.ask(calls.TOKENS).tokens

    def add_token(self, wanted: wire.NewToken) -> wire.MadeToken:
        """Have a token made."""
        return self.client.ask(calls.ADD_TOKEN, wanted)

    def revoke_token(self, token_id: str) -> wire.TokenView:
        """Have a token revoked."""
        return self.client.ask(calls.REVOKE_TOKEN, token_id=token_id)

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
        """Yield the bytes of a dump that the server writes, and does not record; `recipients` open it, too.

        BadInput for more recipients than fit into a request.
        """
        keys = ",".join(recipients)
        if len(keys) > wire.RECIPIENTS_CHARACTERS_MAX:
            raise BadInput(f"{len(recipients)} readers: too many for one dump from a server: make another for some")
        taken = taken_at_ns or None
        answer = self.client.request(
            calls.DUMP, volume=volume, clone=clone, level=level, base=base, taken=taken, recipients=keys
        )
        return answer.pieces(PIECE_BYTES)

    def record(self, volume: str, record: DumpRecord) -> VolumeState:
        """Have a durable dump noted as a base of later ones."""
        return self._state(calls.RECORD, volume, record)

    def forget_dump(self, volume: str, dump_id: bytes) -> VolumeState:
        """Have a dump forgotten: later ones no longer build on it."""
        return self._state(calls.FORGET_DUMP, volume, dump=dump_id)

    def dump_size(self, dump_id: bytes) -> int:
        """Return how many bytes of an uploaded dump are there."""
        return self.client.ask(calls.DUMP_SIZE, upload=dump_id).size

    def send_dump(self, dump_id: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        """Add bytes to an uploaded dump at `offset`, and return its size."""
        return self.client.ask(calls.SEND_DUMP, pieces, upload=dump_id, offset=offset).size

    def drop_dump(self, dump_id: bytes) -> None:
        """Have an uploaded dump forgotten."""
        self.client.ask(calls.DROP_DUMP, upload=dump_id)

    def load(self, volume: str, dumps: Sequence[bytes]) -> VolumeState:
        """Make a volume of uploaded dumps, or bring one forward by increments."""
        return self._state(calls.LOAD, volume, wire.Load(dumps=list(dumps)))

    # What is there

    def states(self) -> list[VolumeState]:
        """Return the volumes that the token may see, by name."""
        return [self._readable(state) for state in self.client.ask(calls.STATES).volumes]

    def state(self, volume: str) -> VolumeState:
        """Return a volume's state, by name."""
        return self._state(calls.STATE, volume)

    # Objects out

    def block(self, volume: str, identity: ObjectId, *, bytes_max: int = BLOCK_ANSWER_BYTES_MAX) -> list[Record]:
        """Return an object and those stored beside it, about `bytes_max` bytes. Who asks checks each by its id."""
        most = bytes_max if bytes_max < BLOCK_ANSWER_BYTES_MAX else None
        answer = self.client.request(calls.BLOCK, volume=volume, id=identity, most=most)
        return list(decode_records(answer.read(wire.BLOCK_BYTES_MAX)))

    def missing(self, volume: str, targets: Sequence[bytes], bases: Sequence[bytes]) -> Iterator[bytes]:
        """Yield rows (many joined at a time) for what `targets` reach and the newest fitting of `bases` does not."""
        body = wire.Missing(targets=list(targets), bases=list(bases))
        return self._rows(self.client.request(calls.MISSING, body, volume=volume))

    def _rows(self, answer: Answer) -> Iterator[bytes]:
        row_count = 0
        for piece in answer.pieces(ROWS_BYTES):
            row_count += len(piece) // ROW_BYTES
            if len(piece) % ROW_BYTES or row_count > self._rows_max:
                raise Unavailable(f"{self.label}: the answer was cut short, or has no end")
            if not are_possible(piece):
                raise self.client.strange(BadInput("a row of what is missing is of no kind, or of too many bytes"))
            yield piece

    def objects(self, volume: str, ids: bytes) -> Iterator[bytes]:
        """Yield the bytes of a pack (kind pool) that holds exactly the objects with these joined ids."""
        return self.client.request(calls.OBJECTS, bytes(ids), volume=volume).pieces(PIECE_BYTES)

    # Objects in

    def have(self, volume: str, ids: bytes) -> bytes:
        """Return one byte for each of the joined ids: 1 when the object, with all that it names, is there to stay.

        Unavailable when the server says more or less than that.
        """
        count = len(ids) // OBJECT_ID_BYTES
        there = self.client.request(calls.HAVE, bytes(ids), volume=volume).read(count)
        if len(there) != count:
            raise Unavailable(f"{self.label}: {len(there)} answers to {count} questions")
        return there

    def upload_size(self, volume: str, upload: bytes) -> int:
        """Return how many bytes of an upload (named by its pack id) are there; 0 for one never begun."""
        return self.client.ask(calls.UPLOAD_SIZE, volume=volume, upload=upload).size

    def upload(self, volume: str, upload: bytes, offset: int, pieces: Iterable[bytes]) -> int:
        """Add bytes to an upload at `offset`, which must be at most its size, and return its size, durable."""
        return self.client.ask(calls.UPLOAD, pieces, volume=volume, upload=upload, offset=offset).size

    def adopt(self, volume: str, uploads: Sequence[bytes]) -> None:
        """Have whole uploads checked and kept."""
        self.client.ask(calls.ADOPT, wire.Adopt(uploads=list(uploads)), volume=volume)

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
        secret = self._lease_secret(owner) if owner else b""
        return self._state(
            calls.COMMIT, volume, pieces, revision=revision, upload=upload, common=common, owner=owner, secret=secret
        )

    # What moves

    def create(self, state: VolumeState) -> VolumeState:
        """Make an empty volume with this id, name, role, replica set and settings; the same again is no error."""
        made = self._state(calls.CREATE, state.name, told_whole(state))
        if made.id != state.id:
            raise self.client.strange(BadInput(f"volume {state.name!r}: it has another id"))
        return made

    def remove(self, volume: str) -> None:
        """Forget a volume on this server."""
        self.client.ask(calls.REMOVE, volume=volume)

    def advance(self, volume: str, revision: bytes, *, owner: str = "") -> VolumeState:
        """Move the head forward to `revision`, which is there whole, and return the state."""
        body = wire.Advance(revision=revision, owner=owner, secret=self._lease_secret(owner) if owner else b"")
        return self._state(calls.ADVANCE, volume, body)

    def reopen(self, volume: str, *, at_ns: int, content: bytes = b"") -> VolumeState:
        """Have a revision of `at_ns` put in the place of a head of the future."""
        body = wire.Reopen(at_ns=at_ns, revision=content)
        return self._state(calls.REOPEN, volume, body)

    def agree(self, volume: str, revision: bytes, *, uncloned: Mapping[str, Sequence[Clone]] = {}) -> None:
        """Note that every writer has `revision`, and forget tombstones that every writer has."""
        body = wire.Agree(revision=revision, uncloned={name: list(clones) for name, clones in uncloned.items()})
        self.client.ask(calls.AGREE, body, volume=volume)

    def freeze(self, volume: str, *, owner: str, seconds: int = LEASE_SECONDS) -> VolumeState:
        """Freeze, or freeze on, for `owner`, and return the state."""
        body = wire.Freeze(owner=owner, secret=self._lease_secret(owner), seconds=seconds)
        return self._state(calls.FREEZE, volume, body)

    def thaw(self, volume: str, *, owner: str) -> None:
        """End the lease of `owner`; one that ended by itself is no error."""
        body = wire.Thaw(owner=owner, secret=self._lease_secret(owner))
        self.client.ask(calls.THAW, body, volume=volume)

    def clone(self, volume: str, name: str, clone: Clone) -> VolumeState:
        """Name a revision that is there whole."""
        body = wire.NamedClone(name=name, clone=clone)
        return self._state(calls.CLONE, volume, body)

    def unclone(self, volume: str, name: str, clone: Clone, *, here_only: bool = False) -> VolumeState:
        """Forget a clone and, without `here_only`, remember that."""
        body = wire.Unclone(name=name, clone=clone, here_only=here_only)
        return self._state(calls.UNCLONE, volume, body)

    def arrange(self, volume: str, replicas: ReplicaSet) -> VolumeState:
        """Have a replica set with a larger version taken."""
        return self._state(calls.ARRANGE, volume, replicas)

    def switch(self, volume: str, release: Release) -> VolumeState:
        """Have a release shown, whose revision is there whole."""
        return self._state(calls.SWITCH, volume, release)

    def watch(self, volume: str, head: bytes, *, seconds: float, follower: str = "") -> VolumeState:
        """Return the state as soon as the head is not `head`, or after `seconds`; note how far `follower` is."""
        asked = min(seconds, float(wire.WATCH_SECONDS_MAX))
        wait = asked + WATCH_MARGIN_SECONDS
        return self._state(calls.WATCH, volume, wait_seconds=wait, head=head, seconds=float(asked), follower=follower)


@cache
def _secret_of_process(pid: int) -> bytes:
    return random_bytes(32)
