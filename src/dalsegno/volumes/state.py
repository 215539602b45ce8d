"""A volume's state: the one value under its ref, replaced as a whole (docs/decisions/001-one-ref-per-volume.md)."""

import re
from typing import Any, Final

import msgspec

from dalsegno.formats.objects import UNREADABLE
from dalsegno.terms.errors import Damaged, TooNew

STATE_VERSION: Final = 2
TRACKED = "tracked"
NATIVE = "native"

WRITER = "writer"
READER = "reader"
STANDBY = "standby"

ANY = "any"
MAJORITY = "majority"


class Clone(msgspec.Struct, frozen=True, kw_only=True):
    """A read-only, named revision."""

    revision: bytes
    created_ns: int
    held: bool = False
    automatic: bool | None = None
    """Whether a program chose the name, and not a person. None, where nobody wrote it down: the name tells."""

    entry_count: int | None = None
    """Files and directories in it; None, where nobody wrote it down."""


AUTOMATIC = "mount"
"""The message of a revision that a mount made by itself. The next one may take its place in the line."""

_TIME_NAME = re.compile(r"\d{4}-?\d\d-?\d\dT\d\d:?\d\d:?\d\dZ(-\d+)?")


def is_automatic(name: str, clone: Clone) -> bool:
    """Tell whether retention may thin out a clone: a program named it. One that a person named stays."""
    return bool(_TIME_NAME.fullmatch(name)) if clone.automatic is None else clone.automatic


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A volume is frozen by its holder, for a moment (leases.py)."""

    owner: str
    until_ns: int
    proof: bytes = b""
    """A hash of the holder's secret; empty: his name says enough, as among those who work in the pool itself."""


class DumpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A durable dump that later dumps may start from."""

    dump_id: bytes
    level: int
    revision: bytes
    """The state that the dump brings a volume to."""
    base_dump: bytes
    taken_at_ns: int
    path: str
    size_bytes: int
    recorder: str = ""
    """Whose dump it is, `PROGRAM:...`, when only that program gives it back, from its media; empty: a file of dal's."""


class ReplicaSet(msgspec.Struct, frozen=True, kw_only=True):
    """Which servers hold a volume. Of two that differ the one with the larger version counts, wherever it stands."""

    version: int
    writers: list[str]
    """Names of the servers whose heads move by commits."""
    rule: str = ANY
    """How many writers must answer before a commit is acknowledged: `any` one, or a `majority`."""
    readers: list[str] = []
    """Servers that show what was released to them, read-only."""
    standbys: list[str] = []
    """Servers that follow the newest state and can be promoted."""
    clones: dict[str, str] = {}
    """Server: which clones it keeps, as `PATTERN` or `PATTERN@lastN`; a server without an entry keeps all."""
    moved_to: str = ""
    """Set on a server that holds the volume no longer: where its clients are sent."""


def holders(replicas: ReplicaSet | None) -> tuple[str, ...]:
    """Return the servers that hold a volume; empty for one that is not replicated."""
    return (*replicas.writers, *replicas.standbys, *replicas.readers) if replicas is not None else ()


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What the read-only sites of a volume show. The larger number counts, so that a late message changes nothing."""

    number: int
    revision: bytes
    clone: str
    released_ns: int


class VolumeState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that changes about a volume."""

    id: bytes
    name: str
    kind: str
    source: bytes
    """The host directory that a tracked volume follows; empty for a native one."""
    created_ns: int
    head: bytes = b""
    """Newest revision; empty before the first commit."""
    clones: dict[str, Clone] = {}
    dumps: list[DumpRecord] = []
    settings: dict[str, str | int | bool | list[str]] = {}
    lease: Lease | None = None
    role: str = ""
    """What this replica is: a WRITER, a READER (shows releases only), a STANDBY (follows); empty: not replicated."""
    replicas: ReplicaSet | None = None
    common: bytes = b""
    """Newest revision known to be on every writer. It and all between it and the head stay whole: the next merge of
    diverged heads begins from one of them."""
    uncloned: dict[str, list[Clone]] = {}
    """Clones of a replicated volume that were removed: a replica that was away meanwhile does not bring them back."""
    released: Release | None = None
    counter: int = 0
    """How often this replica's state was written. It only grows, so that an older one put back in its place is noticed
    by whoever remembers the number; 0: of version 1, which did not count."""


def encode_state(state: VolumeState) -> bytes:
    """Return `state` as stored under its ref: version 2."""
    return msgspec.msgpack.encode({"version": STATE_VERSION, **msgspec.structs.asdict(state)})


def decode_state(data: bytes) -> VolumeState:
    """Return the state stored in `data`; version 1 had neither a version nor a counter."""
    try:
        plain = msgspec.msgpack.decode(data, type=dict[str, Any])
        version = plain.pop("version", 1)
        if isinstance(version, int) and version > STATE_VERSION:
            raise TooNew(f"volume state of version {version}, this program reads {STATE_VERSION}: update the program")
        return msgspec.convert(plain, VolumeState)
    except UNREADABLE as error:
        raise Damaged(f"volume state: {error}") from None
