"""A volume's state: the one value under its ref, replaced as a whole (docs/decisions/001-one-ref-per-volume.md)."""

from typing import Any, Final

import msgspec

from dalsegno.formats.messages import convert
from dalsegno.formats.objects import UNREADABLE
from dalsegno.pool.contract import Source
from dalsegno.terms.errors import Damaged, TooNew
from dalsegno.volumes.clones import Clone, Clones, Vet
from dalsegno.volumes.records import DumpRecords
from dalsegno.volumes.records import Vet as VetRecord

STATE_VERSION: Final = 3
_WITHOUT_DUMP_TABLE: Final = 2
"""What a state says that has no dump table: programs that know none read it."""
TRACKED = "tracked"
NATIVE = "native"

WRITER = "writer"
READER = "reader"
STANDBY = "standby"

ANY = "any"
MAJORITY = "majority"


AUTOMATIC = "mount"
"""The message of a revision that a mount made by itself. The next one may take its place in the line."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A volume is frozen by its holder, for a moment (leases.py)."""

    owner: str
    until_ns: int
    proof: bytes = b""
    """A hash of the holder's secret; empty: his name says enough, as among those who work in the pool itself."""


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
    clones: Clones = msgspec.field(default_factory=Clones)
    dumps: DumpRecords = msgspec.field(default_factory=DumpRecords)
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

    def __post_init__(self) -> None:
        if not isinstance(self.clones, Clones):
            msgspec.structs.force_setattr(self, "clones", Clones(self.clones))
        if not isinstance(self.dumps, DumpRecords):
            msgspec.structs.force_setattr(self, "dumps", DumpRecords(self.dumps))


def told_whole(state: VolumeState) -> VolumeState:
    """Return what a new replica is told of a volume: its dumps without a table, which is not there."""
    return msgspec.structs.replace(state, dumps=state.dumps.sent())


def readable(
    state: VolumeState, source: Source, vet: Vet | None = None, vet_record: VetRecord | None = None
) -> VolumeState:
    """Return a state whose clones and dumps are read from `source` where the ref does not hold them, and pass `vet` and
    `vet_record` then."""
    return msgspec.structs.replace(
        state,
        clones=state.clones.read_from(source, vet=vet),
        dumps=state.dumps.read_from(source, vet=vet_record),
    )


def state_ref(volume_id: bytes) -> str:
    """Return the name of the ref that holds a volume's state."""
    return f"volumes/{volume_id.hex()}"


def encode_state(state: VolumeState) -> bytes:
    """Return `state`, whose clones and dumps are settled, as stored: version 2, or 3 with a table of dumps."""
    clones, dumps = state.clones.told(), list(state.dumps.newest)
    assert state.dumps.is_stored, "changes of a table are settled first"
    fields = {**msgspec.structs.asdict(state), "clones": clones.newest, "older": clones.older, "dumps": dumps}
    if state.dumps.table is None:
        return msgspec.msgpack.encode({"version": _WITHOUT_DUMP_TABLE, **fields})
    return msgspec.msgpack.encode({"version": STATE_VERSION, **fields, "older_dumps": state.dumps.table})


def decode_state(data: bytes, source: Source | None = None) -> VolumeState:
    """Return the state stored in `data`, its clones and dumps to be read from `source`.

    Version 1 had no counter and no table, version 2 no table of dumps.
    """
    try:
        plain = msgspec.msgpack.decode(data, type=dict[str, Any])
        version = plain.pop("version", 1)
        if isinstance(version, int) and version > STATE_VERSION:
            raise TooNew(f"volume state of version {version}, this program reads {STATE_VERSION}: update the program")
        plain["clones"] = {"newest": plain.get("clones", {}), "older": plain.pop("older", None)}
        plain["dumps"] = {"newest": plain.get("dumps", []), "older": plain.pop("older_dumps", None)}
        state = convert(plain, VolumeState)
    except UNREADABLE as error:
        raise Damaged(f"volume state: {error}") from None
    return readable(state, source) if source is not None else state
