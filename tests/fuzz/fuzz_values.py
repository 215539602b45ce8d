"""Targets for objects, volume states, messages, and what a client makes of any answer of a server."""

import socket
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast
from zlib import crc32

import msgspec

from dalsegno.formats import messages, objects, pack
from dalsegno.formats.object_records import decode_records
from dalsegno.formats.pack_records import apply_delta
from dalsegno.mount.listing import Kept, LinkCounts, Listings
from dalsegno.pool.pack_read import PackReader
from dalsegno.replicas import wire
from dalsegno.replicas.answers import CHECKS, check
from dalsegno.replicas.connections import ConnectionPool, Patience, Plain
from dalsegno.replicas.profile import Profile
from dalsegno.replicas.remote import RemoteSite
from dalsegno.terms.errors import DalError, NotFound
from dalsegno.terms.ids import ObjectId
from dalsegno.trees.diff import diff_revisions
from dalsegno.trees.edit import edit_directory
from dalsegno.trees.extents import data_bytes, find_data, recipe_leaves
from dalsegno.trees.links import LinksTable
from dalsegno.trees.read import entry_xattrs, iterate_content, resolve_link
from dalsegno.trees.walk import walk
from dalsegno.volumes import state as states
from dalsegno.volumes.clones import Clones, CloneTable
from dalsegno.volumes.signed import look_at_signature
from dalsegno.volumes.state import VolumeState, decode_state, encode_state
from kit import REALM, DictStore

TESTS: Final = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "lying"))
from test_client_calls import ASKED  # noqa: E402

CLONES_READ_MAX: Final = 5000
ENTRIES_MAX: Final = 300
"""So many are looked at: that a tree has no end is found by other tests."""


def entries(data: bytes) -> None:
    """An object of every kind, what it names, and whose signature a revision has."""
    for kind in (objects.KIND_DIRECTORY, objects.KIND_RECIPE, objects.KIND_REVISION, objects.KIND_CHUNK):
        with suppress(DalError):
            list(objects.references(kind, data))
    for decode in (objects.decode_directory, objects.decode_recipe, objects.decode_revision, objects.decode_xattrs):
        with suppress(DalError):
            objects.encode(decode(data))
    with suppress(DalError):
        look_at_signature(objects.decode_revision(data), {}).words("anna")
    if len(data) >= pack.DELTA.size:  # whoever finds the record looks at that
        with suppress(DalError):
            apply_delta(data, b"base" * 100)


class _Table:
    """The objects of the golden table of clones. A Source."""

    def __init__(self) -> None:
        with PackReader.open(TESTS / "golden" / "ref-v2-table.pack", REALM) as reader:
            self._objects = {
                identity.tobytes(): reader.get(ObjectId(identity.tobytes())) for identity in reader.objects()[0]
            }

    def ids(self) -> list[bytes]:
        return list(self._objects)

    def get(self, identity: bytes, /) -> bytes:
        if identity not in self._objects:
            raise NotFound(identity.hex())
        return self._objects[identity]


class _Echo:
    """A pool in which every object is the same. A Source."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def get(self, identity: bytes, /) -> bytes:
        return self._payload


class _Nodes:
    """Objects that name each other as an input says: the first byte of an id chooses one of them. A Source."""

    def __init__(self, data: bytes) -> None:
        self._nodes: list[bytes] = []
        at = 0
        while at + 2 <= len(data):
            length = int.from_bytes(data[at : at + 2], "little")
            self._nodes.append(data[at + 2 : at + 2 + length])
            at += 2 + length

    def get(self, identity: bytes, /) -> bytes:
        if not self._nodes or not identity:
            raise NotFound("nothing")
        return self._nodes[identity[0] % len(self._nodes)]

    def view_kind(self, identity: bytes) -> tuple[int, bytes]:
        return objects.KIND_DIRECTORY, self.get(identity)


TABLE: Final = _Table()


def _read(clones: Clones) -> None:
    for way in (clones.by_time, clones.newest_first, clones.salvage, clones.oldest):
        with suppress(DalError):
            found = way()
            for number, _ in enumerate(found or ()):
                if number > CLONES_READ_MAX:
                    break
    for at_ns in (-(2**63), 0, 5, 2**63 - 1, 2**80):
        with suppress(DalError):
            clones.newest_until(at_ns)
    for name in ("clone 010", "", "\ud800", "none"):
        with suppress(DalError):
            clones.get(name)


def state(data: bytes) -> None:
    """A volume's state of both versions, its clones read from a table."""
    found = decode_state(data, cast(Any, TABLE))
    len(found.clones), states.holders(found.replicas), repr(found)
    assert decode_state(encode_state(found)).clones.is_same(found.clones)
    _read(found.clones)
    with suppress(DalError):
        check(found)


def table(data: bytes) -> None:
    """A table of clones, each node of which is the input."""
    _read(
        Clones({}, CloneTable(count=3, by_name=bytes(32), by_time=bytes(32), until_ns=5), source=cast(Any, _Echo(data)))
    )


def tree(data: bytes) -> None:
    """A revision and its tree, whose objects name each other and themselves: walked, compared, its files read."""
    source = cast(Any, _Nodes(data))
    revision = objects.decode_revision(source.get(bytes(32)))
    with suppress(DalError):
        LinksTable(source, revision.links).find(5)
    with suppress(DalError):
        for _, entry in islice(walk(source, revision), ENTRIES_MAX):
            with suppress(DalError):
                entry_xattrs(source, entry)
                resolve_link(source, revision.links, entry)
                list(islice(iterate_content(source, entry), ENTRIES_MAX))
                find_data(source, entry, 0)
            with suppress(DalError):
                data_bytes(source, entry)
            with suppress(DalError):
                recipe_leaves(source, entry)
    with suppress(DalError):
        LinkCounts(Kept(source), revision.root.content, entries_max=ENTRIES_MAX).count(5, exact=True)
    with suppress(DalError):
        list(islice(Listings(Kept(source)).leaves(revision.root.content, 0), ENTRIES_MAX))
    with suppress(DalError):
        edit_directory(source, DictStore(), revision.root.content, {b"x": None})
    with suppress(DalError):
        list(islice(diff_revisions(source, revision, objects.decode_revision(source.get(b"\x01" * 32))), ENTRIES_MAX))


def _kinds() -> dict[str, type]:
    named = {
        name: kind for name, kind in vars(wire).items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    return {**named, **{kind.__name__: kind for kind in CHECKS}, "Profile": Profile}


KINDS: Final = _kinds()


def _chosen(data: bytes, names: list[str]) -> tuple[str, bytes, bytes]:
    """Return which of `names` an input is for, the word behind that, and the rest."""
    line, _, rest = data.partition(b"\n")
    first, _, word = line.partition(b" ")
    name = first.decode("latin-1")
    return (name if name in names else names[crc32(first) % len(names)]), word, rest


def message(data: bytes) -> None:
    """A JSON message of any kind, as it comes to a server and to a client."""
    name, _, rest = _chosen(data, sorted(KINDS))
    for more in (True, False):
        with suppress(DalError):
            found = check(messages.decode(rest, KINDS[name], more=more))
            assert messages.encode(messages.decode(messages.encode(found), KINDS[name])) == messages.encode(found)


def records(data: bytes) -> None:
    """The objects in the answer of `block`."""
    for kind, _, payload in decode_records(data):
        if kind != objects.KIND_CHUNK:
            with suppress(DalError):
                list(objects.references(kind, payload))


class _Said(ConnectionPool):
    """Connections that lead to an answer which is there already."""

    def __init__(self, said: bytes) -> None:
        super().__init__("127.0.0.1", 1, tls=False, fingerprint="", patience=Patience())
        self.said = said
        self.others: list[socket.socket] = []

    def open(self) -> Any:
        ours, theirs = socket.socketpair()
        theirs.sendall(self.said)
        theirs.shutdown(socket.SHUT_WR)
        connection = Plain("127.0.0.1", 1, connect_seconds=1, answer_seconds=1)
        connection.sock = ours
        self.others.append(theirs)
        return connection


STATUSES: Final = (200, 200, 200, 200, 204, 206, 301, 400, 401, 403, 404, 409, 413, 421, 422, 500, 503, 507)
"""Not 429: the client waits then, as it is told."""
ANSWER_BYTES_MAX: Final = 100_000
"""What a socket takes before somebody reads from it."""
NAMES: Final = sorted(ASKED)


def answer(data: bytes) -> None:
    """Any answer to each call of a client: the call, a space and a status or `raw`, a line's end, the body."""
    name, word, rest = _chosen(data, NAMES)
    rest = rest[:ANSWER_BYTES_MAX]
    if word == b"raw":
        said = rest
    else:
        status = int(word) if word in {b"%d" % each for each in STATUSES} else STATUSES[crc32(word) % len(STATUSES)]
        said = b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n" % (status, len(rest)) + rest
    if b" 429" in said[:20]:
        return
    site = RemoteSite("http://127.0.0.1:1", "token", name="s1")
    site.client.connections = connections = _Said(said)
    try:
        found = ASKED[name][0](site)
        if isinstance(found, VolumeState):
            len(found.clones), repr(found)
    finally:
        site.close()
        for each in connections.others:
            each.close()
