"""What crosses between a RemoteSite and a server, as values (docs/formats/http.md). Both sides write and read these."""

from typing import Annotated, Final, Literal

import msgspec

from dalsegno.replicas.contract import LEASE_SECONDS
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES
from dalsegno.terms.sizes import MIB
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import VolumeState

PROTOCOL: Final = "1"
"""Sent both ways in the header Dal-Protocol; a server refuses another."""
PROTOCOL_HEADER: Final = "Dal-Protocol"
REQUEST_HEADER: Final = "X-Request-Id"
KEY_HEADER: Final = "Dal-Key-Generation"
"""How many secrets the realm's key has at the server that answers; without it one."""
BLOCK_BYTES_MAX: Final = 64 * MIB
WATCH_SECONDS_MAX: Final = 300
LEASE_SECONDS_MAX: Final = 300
LIST_MAX: Final = 20_000
RECIPIENTS_CHARACTERS_MAX: Final = 4096
"""Of all public keys for which a dump is asked for: they stand in the request's head."""

ObjectIdBytes = Annotated[bytes, msgspec.Meta(min_length=OBJECT_ID_BYTES, max_length=OBJECT_ID_BYTES)]
UploadId = Annotated[bytes, msgspec.Meta(min_length=UUID_BYTES, max_length=UUID_BYTES)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
OwnerName = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Owner = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
LeaseSecret = Annotated[bytes, msgspec.Meta(min_length=UUID_BYTES, max_length=UUID_BYTES)]
LeaseSecretOrNone = Annotated[bytes, msgspec.Meta(max_length=UUID_BYTES)]
Line = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[\x20-\x7e]*$")]
VolumePattern = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[\x20-\x2e\x30-\x7e]+$")]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `missing`."""

    targets: Annotated[list[ObjectIdBytes], msgspec.Meta(min_length=1, max_length=LIST_MAX)]
    bases: Annotated[list[ObjectIdBytes], msgspec.Meta(max_length=LIST_MAX)] = []


class Adopt(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `adopt`."""

    uploads: Annotated[list[UploadId], msgspec.Meta(max_length=LIST_MAX)]


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `advance`."""

    revision: ObjectIdBytes
    owner: Owner = ""
    secret: LeaseSecretOrNone = b""
    """Of the lease that `owner` holds."""


class Agree(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `agree`."""

    revision: Annotated[bytes, msgspec.Meta(max_length=OBJECT_ID_BYTES)] = b""
    """Empty: nothing about revisions."""
    uncloned: dict[str, list[Clone]] = {}


class Reopen(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `reopen`."""

    at_ns: Annotated[int, msgspec.Meta(ge=0)]
    """The time of the revision that takes the head's place: now, the same on all servers."""
    revision: Annotated[bytes, msgspec.Meta(max_length=OBJECT_ID_BYTES)] = b""
    """Whose files it has; empty: the head's."""


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `freeze`."""

    owner: OwnerName
    secret: LeaseSecret
    """Of the holder's choice: with it, and not with his name alone, the lease is used, prolonged and ended."""
    seconds: Annotated[int, msgspec.Meta(ge=1, le=LEASE_SECONDS_MAX)] = LEASE_SECONDS


class Thaw(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `thaw`."""

    owner: OwnerName
    secret: LeaseSecret


class NamedClone(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `clone`."""

    name: Name
    clone: Clone


class Unclone(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `unclone`."""

    name: Name
    clone: Clone
    here_only: bool = False


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `load`: uploaded dumps, in the order in which they were made."""

    dumps: Annotated[list[UploadId], msgspec.Meta(min_length=1, max_length=100)]


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """The body that asks for a token."""

    rights: Annotated[list[Literal["read", "append", "write", "administer"]], msgspec.Meta(min_length=1, max_length=4)]
    volumes: Annotated[list[VolumePattern], msgspec.Meta(min_length=1, max_length=64)]
    note: Line = ""
    expires_seconds: Annotated[int, msgspec.Meta(ge=0, le=100 * 365 * 86400)] = 0
    """0: never."""


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that says no more than that it is done."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many bytes of an upload are there."""

    size: int


class States(msgspec.Struct, frozen=True, kw_only=True):
    """The volumes that the token may see."""

    volumes: list[VolumeState]


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers."""

    name: str
    version: str
    protocol: str
    realm: bytes
    """The realm's id."""
    now_ns: int
    rights: list[str] = []
    """What the token that asks gives a right to."""
    volumes: list[str] = []
    """The patterns of the volumes that it is for."""


class RealmKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a member of the realm must know: its secret, or what is enough to write into it."""

    realm: bytes
    secret: bytes = b""
    """Empty for a token that may not read: then the other fields are there."""
    id_key: bytes = b""
    chunk_seed: bytes = b""
    """8 bytes, little-endian."""
    recipient: str = ""
    older: list[bytes] = []
    """The secrets before `secret`, the newest first."""
    generation: int = 1
    """How many secrets there are."""


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token without what proves it."""

    id: str
    rights: list[str]
    volumes: list[str]
    note: str
    created_ns: int
    expires_ns: int
    used_ns: int
    peer: bool


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a server."""

    tokens: list[TokenView]


class MadeToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token, with its text: the only time that it is shown."""

    token: str
    view: TokenView


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a server that works."""

    status: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong: a code for programs (terms/errors.py), a line for people."""

    code: str
    message: str
    request: str = ""
    """The request's id, as in the server's log."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Another server."""

    name: str
    url: str = ""
    """Empty when the server that answers does not know it."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer that is not a success."""

    error: Failure
    moved_to: Place | None = None
    """Where the volume is now, when that is what is wrong."""
