"""A volume's state: the one value under its ref, replaced as a whole (docs/decisions/001-one-ref-per-volume.md)."""

import msgspec

from dalsegno.formats.objects import UNREADABLE
from dalsegno.terms.errors import Damaged

TRACKED = "tracked"
NATIVE = "native"


class Clone(msgspec.Struct, frozen=True, kw_only=True):
    """A read-only, named revision."""

    revision: bytes
    created_ns: int
    held: bool = False


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A volume is frozen by its holder, for a moment (leases.py)."""

    owner: str
    until_ns: int


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


_decoder = msgspec.msgpack.Decoder(VolumeState)


def encode_state(state: VolumeState) -> bytes:
    """Return `state` as stored under its ref."""
    return msgspec.msgpack.encode(state)


def decode_state(data: bytes) -> VolumeState:
    """Return the state stored in `data`."""
    try:
        return _decoder.decode(data)
    except UNREADABLE as error:
        raise Damaged(f"volume state: {error}") from None
