"""The table of what can be asked of a server: for each call its path, right, request, answer, and whether it repeats.

The client (remote.py), the server's routes, the OpenAPI page and the table in docs/formats/http.md are made of it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlencode

from dalsegno.chunks.recipients import check_recipient
from dalsegno.replicas import wire
from dalsegno.replicas.contract import BATCH_IDS_MAX, BLOCK_ANSWER_BYTES_MAX, STATE_BYTES_MAX
from dalsegno.replicas.tokens import ADMINISTER, APPEND, READ, WRITE
from dalsegno.replicas.view import Placed, RealmView
from dalsegno.replicas.wire import RECIPIENTS_CHARACTERS_MAX
from dalsegno.terms.errors import BadInput
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES
from dalsegno.terms.sizes import MIB
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import Release, ReplicaSet, VolumeState

ANY_RIGHT: Final = "any"
"""A token that gives any right on the volume (or, where there is none in the path, on anything)."""
NO_TOKEN: Final = ""

JSON_BYTES_MAX: Final = 2 * MIB
UPLOAD_BYTES_MAX: Final = 256 * MIB
"""One pack of a transfer."""

A = TypeVar("A")
Word = str | bytes | int | float | Sequence[str] | None
"""What stands in a path or a query: bytes as hexadecimal digits, seconds to the millisecond, a list with commas."""

HEX_ID_PATTERN: Final = f"^[0-9a-f]{{{2 * OBJECT_ID_BYTES}}}$"
HEX_UPLOAD_PATTERN: Final = f"^[0-9a-f]{{{2 * UUID_BYTES}}}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One word of a query."""

    name: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    """Returns the value; BadInput or ValueError."""
    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[A]):
    """One thing that can be asked."""

    name: str
    method: str
    path: str
    what: str
    answer: type[A]
    """A message; `bytes`, `str` for text, `dict` for any other JSON."""
    right: str = ANY_RIGHT
    also: str = ""
    """Another right that opens it."""
    peers: bool = False
    """Whether another server of the realm, which holds the volume, may ask it without that right."""
    query: tuple[Parameter, ...] = ()
    body: type | None = None
    """A message, or `bytes`."""
    body_bytes_max: int = JSON_BYTES_MAX
    """0: as large as the disk."""
    body_streams: bool = False
    brings_objects: bool = False
    """Whether what is damaged is what was sent; in other calls it is what is kept at the server."""
    is_repeatable: bool = True
    """Whether, done again after a lost answer, it changes nothing more."""
    is_long: bool = False
    """It may take minutes: those that take no time do not wait for it."""
    answer_shares: int = 0
    """Of the memory for answers that stream (limits.STREAM_SHARES), for as long as it is sent."""
    errors: tuple[int, ...] = field(default=(404, 409, 422))
    """Beyond those that every call can have."""

    def target(self, **words: Word) -> str:
        """Return path and query with these words in them; what is None or empty is left out of the query."""
        told = {name: _written(word) for name, word in words.items()}
        in_path = _IN_PATH.findall(self.path)
        path = self.path.format(**{name: quote(told.pop(name), safe="") for name in in_path})
        query = {one.name: text for one in self.query if (text := told.pop(one.name, ""))}
        assert not told, f"{self.name}: has no {', '.join(told)}"
        return f"{path}?{urlencode(query, quote_via=quote)}" if query else path


_IN_PATH: Final = re.compile(r"{(\w+)}")


def _written(word: Word) -> str:
    if isinstance(word, bytes):
        return word.hex()
    if isinstance(word, float):
        return f"{word:.3f}"
    if word is None or isinstance(word, str | int):
        return "" if word is None else str(word)
    return ",".join(word)


def _hex(bytes_count: int) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        if len(text) != 2 * bytes_count or text.strip("0123456789abcdef"):
            raise BadInput(f"expected {2 * bytes_count} hexadecimal digits")
        return bytes.fromhex(text)

    return read


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 20 or not least <= int(text) <= most:
            raise BadInput(f"expected a number from {least} to {most}")
        return int(text)

    return read


def _seconds(most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not text.isascii() or not text.replace(".", "", 1).isdecimal() or len(text) > 20:
            raise BadInput(f"expected seconds from 0 to {most:g}")
        if float(text) > most:
            raise BadInput(f"expected seconds from 0 to {most:g}")
        return float(text)

    return read


def _line(most: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        if len(text) > most or not text.isprintable():
            raise BadInput(f"expected one line of at most {most} characters")
        return text

    return read


def _recipients(text: str) -> tuple[str, ...]:
    line = _line(RECIPIENTS_CHARACTERS_MAX)(text)
    return tuple(check_recipient(each) for each in line.split(",") if each)


_PRINTABLE: Final = {"type": "string", "maxLength": 200, "pattern": r"^[\x20-\x7e]*$"}
_OFFSET: Final = Parameter(
    name="offset",
    schema={"type": "integer", "minimum": 0, "maximum": 2**62},
    read=_whole(0, 2**62),
    required=True,
)
_REVISION: Final = Parameter(
    name="revision", schema={"type": "string", "pattern": HEX_ID_PATTERN}, read=_hex(OBJECT_ID_BYTES), required=True
)

_DUMP_ID: Final = Parameter(
    name="dump", schema={"type": "string", "pattern": HEX_UPLOAD_PATTERN}, read=_hex(UUID_BYTES), required=True
)


def _optional_hex(name: str, bytes_count: int, pattern: str) -> Parameter:
    return Parameter(name=name, schema={"type": "string", "pattern": pattern}, read=_hex(bytes_count), default=b"")


def _volume(name: str, method: str, right: str, answer: type[A], what: str, **more: Any) -> Call[A]:
    path = f"/v1/volumes/{{volume}}/{name}"
    return Call(name=name, method=method, path=path, right=right, answer=answer, what=what, **more)


HEALTH: Final = Call(
    name="health",
    answer=wire.Health,
    method="GET",
    path="/health",
    right=NO_TOKEN,
    what="Tell that the server works: 503 when its pool cannot be read.",
    errors=(),
)
METRICS: Final = Call(
    name="metrics", answer=str, method="GET", path="/metrics", what="Counts for Prometheus.", errors=()
)
OPENAPI: Final = Call(
    name="openapi", answer=dict, method="GET", path="/openapi.json", right=NO_TOKEN, what="This page.", errors=()
)
SERVER: Final = Call(
    name="server", answer=wire.ServerInfo, method="GET", path="/v1/server", what="Who answers.", errors=()
)
KEY: Final = Call(
    name="key",
    answer=wire.RealmKey,
    method="GET",
    path="/v1/key",
    what="The realm's secret; for a token that may not read, what is enough to write.",
    errors=(),
)
REALM: Final = Call(
    name="realm",
    answer=RealmView,
    method="GET",
    path="/v1/realm",
    what="The realm's directory, as this server knows it.",
    errors=(404,),
)
PUBLISH: Final = Call(
    name="publish",
    answer=wire.Done,
    method="PUT",
    path="/v1/realm/volumes/{volume}",
    right=APPEND,
    what="Put into the directory where a volume is: taken when its version is larger than the one there. Without "
    "the right to administer: a new volume on one server.",
    body=Placed,
    errors=(404, 409, 422),
)
FORGET: Final = Call(
    name="forget",
    answer=wire.Done,
    method="DELETE",
    path="/v1/realm/volumes/{volume}",
    right=ADMINISTER,
    what="Forget in the directory where a volume is.",
    errors=(404, 409),
)
REMOVE_SERVER: Final = Call(
    name="remove_server",
    answer=wire.Done,
    method="DELETE",
    path="/v1/realm/servers/{server}",
    right=ADMINISTER,
    what="Forget a server that holds no volume.",
    errors=(404, 409),
)
FAILURE: Final = Call(
    name="failure",
    answer=wire.Problem,
    method="GET",
    path="/v1/failures/{request_id}",
    what="Why the answer to an earlier request with this token ended before its end.",
    errors=(404,),
)
STATES: Final = Call(name="states", answer=wire.States, method="GET", path="/v1/states", what="The volumes.", errors=())
TOKENS: Final = Call(
    name="tokens", answer=wire.Tokens, method="GET", path="/v1/tokens", right=ADMINISTER, what="The tokens.", errors=()
)
ADD_TOKEN: Final = Call(
    name="add_token",
    answer=wire.MadeToken,
    method="POST",
    path="/v1/tokens",
    right=ADMINISTER,
    what="Make a token. Its text is in this answer and nowhere else.",
    body=wire.NewToken,
    errors=(),
    is_repeatable=False,
)
REVOKE_TOKEN: Final = Call(
    name="revoke_token",
    answer=wire.TokenView,
    method="DELETE",
    path="/v1/tokens/{token_id}",
    right=ADMINISTER,
    what="Revoke a token; it opens nothing from now on.",
    errors=(404, 409),
)
DUMP_SIZE: Final = Call(
    name="dump_size",
    answer=wire.Size,
    method="GET",
    path="/v1/dumps/{upload}",
    what="How many bytes of an uploaded dump are there; 0 for one never begun.",
    errors=(),
)
SEND_DUMP: Final = Call(
    name="send_dump",
    answer=wire.Size,
    method="PUT",
    path="/v1/dumps/{upload}",
    right=WRITE,
    what="Add bytes to an uploaded dump at `offset`, at most its size.",
    query=(_OFFSET,),
    body=bytes,
    body_bytes_max=0,
    body_streams=True,
    errors=(409, 422),
)
DROP_DUMP: Final = Call(
    name="drop_dump",
    answer=wire.Done,
    method="DELETE",
    path="/v1/dumps/{upload}",
    right=WRITE,
    what="Forget an uploaded dump.",
    errors=(),
)
STATE: Final = _volume("state", "GET", ANY_RIGHT, VolumeState, "The state of a volume.", errors=(404,))
BLOCK: Final = _volume(
    "block",
    "GET",
    READ,
    bytes,
    "An object and those stored beside it: for each its kind (u8), id (32 bytes), length (u32), payload.",
    query=(
        Parameter(
            name="id",
            schema={"type": "string", "pattern": HEX_ID_PATTERN},
            read=_hex(OBJECT_ID_BYTES),
            required=True,
        ),
        Parameter(
            name="most",
            schema={"type": "integer", "minimum": 1, "maximum": BLOCK_ANSWER_BYTES_MAX},
            read=_whole(1, BLOCK_ANSWER_BYTES_MAX),
            default=BLOCK_ANSWER_BYTES_MAX,
        ),
    ),
    errors=(404,),
)
MISSING: Final = _volume(
    "missing",
    "POST",
    READ,
    bytes,
    "Rows of 36 bytes (id, then u32: payload length | kind << 28) of what `targets` reach and `bases` do not.",
    body=wire.Missing,
    answer_shares=1,
)
OBJECTS: Final = _volume(
    "objects",
    "POST",
    READ,
    bytes,
    "A pack that holds exactly the objects whose ids the body joins.",
    body=bytes,
    body_bytes_max=BATCH_IDS_MAX * OBJECT_ID_BYTES,
    answer_shares=1,
)
HAVE: Final = _volume(
    "have",
    "POST",
    APPEND,
    bytes,
    "One byte for each id in the body: 1 when the object, with all that it names, is there to stay.",
    also=READ,  # who may fetch an object finds out whether it is there
    body=bytes,
    body_bytes_max=BATCH_IDS_MAX * OBJECT_ID_BYTES,
)
UPLOAD_SIZE: Final = Call(
    name="upload_size",
    answer=wire.Size,
    method="GET",
    path="/v1/volumes/{volume}/uploads/{upload}",
    right=APPEND,
    what="How many bytes of an upload are there; 0 for one never begun.",
)
UPLOAD: Final = Call(
    name="upload",
    answer=wire.Size,
    method="PUT",
    path="/v1/volumes/{volume}/uploads/{upload}",
    right=APPEND,
    what="Add bytes of a pack to an upload at `offset`, at most its size.",
    query=(_OFFSET,),
    body=bytes,
    body_bytes_max=UPLOAD_BYTES_MAX,
    body_streams=True,
    brings_objects=True,
)
ADOPT: Final = _volume(
    "adopt",
    "POST",
    APPEND,
    wire.Done,
    "Check whole uploads and keep what they hold.",
    body=wire.Adopt,
    is_long=True,
    brings_objects=True,
)
COMMIT: Final = _volume(
    "commit",
    "POST",
    APPEND,
    VolumeState,
    "Upload the pack in the body (whole), adopt it, advance to `revision`; with the right to write agree on "
    "`common`, too.",
    query=(
        _REVISION,
        _optional_hex("upload", UUID_BYTES, HEX_UPLOAD_PATTERN),
        _optional_hex("common", OBJECT_ID_BYTES, HEX_ID_PATTERN),
        Parameter(name="owner", schema=_PRINTABLE, read=_line(200), default=""),
        _optional_hex("secret", UUID_BYTES, HEX_UPLOAD_PATTERN),
    ),
    body=bytes,
    body_bytes_max=UPLOAD_BYTES_MAX,
    body_streams=True,
    brings_objects=True,
)
ADVANCE: Final = _volume(
    "advance", "POST", APPEND, VolumeState, "Move the head forward.", body=wire.Advance, brings_objects=True
)
CLONE: Final = _volume(
    "clone",
    "POST",
    APPEND,
    VolumeState,
    "Name a revision.",
    body=wire.NamedClone,
)
AGREE: Final = _volume("agree", "POST", WRITE, wire.Done, "Note what every writer has.", body=wire.Agree)
FREEZE: Final = _volume(
    "freeze",
    "POST",
    WRITE,
    VolumeState,
    "Freeze a volume, or freeze on.",
    body=wire.Freeze,
)
THAW: Final = _volume("thaw", "POST", WRITE, wire.Done, "End a lease.", body=wire.Thaw)
UNCLONE: Final = _volume(
    "unclone",
    "POST",
    WRITE,
    VolumeState,
    "Forget a clone.",
    body=wire.Unclone,
)
CREATE: Final = _volume(
    "create",
    "POST",
    APPEND,
    VolumeState,
    "Make an empty volume; the same again is no error. Without the right to administer: a plain one on this "
    "server alone.",
    body=VolumeState,
    body_bytes_max=STATE_BYTES_MAX,
)
REMOVE: Final = _volume("remove", "POST", ADMINISTER, wire.Done, "Forget a volume on this server.")
ARRANGE: Final = _volume(
    "arrange",
    "POST",
    ADMINISTER,
    VolumeState,
    "Take a replica set with a larger version.",
    peers=True,
    body=ReplicaSet,
)
REOPEN: Final = _volume(
    "reopen",
    "POST",
    ADMINISTER,
    VolumeState,
    "Put a revision of now in the place of a head that is of the future, after which no commit could come.",
    body=wire.Reopen,
)
SWITCH: Final = _volume(
    "switch",
    "POST",
    ADMINISTER,
    VolumeState,
    "Show a release.",
    body=Release,
)
WATCH: Final = _volume(
    "watch",
    "GET",
    ANY_RIGHT,
    VolumeState,
    "The state, as soon as the head is not `head`, or after `seconds`.",
    query=(
        _optional_hex("head", OBJECT_ID_BYTES, HEX_ID_PATTERN),
        Parameter(
            name="seconds",
            schema={"type": "number", "minimum": 0, "maximum": 300},
            read=_seconds(300),
            default=30.0,
        ),
        Parameter(name="follower", schema=_PRINTABLE, read=_line(200), default=""),
    ),
)
DUMP: Final = _volume(
    "dump",
    "GET",
    READ,
    bytes,
    "A dump, written as it is sent and not recorded: of `clone` (else the head), at `level` (else 0), against the "
    "recorded dump `base` (else the one that the level says). It says that it was taken at `taken` (else now). "
    "Each of `recipients` (public keys of age or ssh, with commas between them) opens it with his own key, too.",
    query=(
        Parameter(name="clone", schema=_PRINTABLE, read=_line(200), default=""),
        Parameter(
            name="level",
            schema={"type": "integer", "minimum": 0, "maximum": 9},
            read=_whole(0, 9),
            default=0,
        ),
        _optional_hex("base", UUID_BYTES, HEX_UPLOAD_PATTERN),
        Parameter(
            name="taken",
            schema={"type": "integer", "minimum": 0, "maximum": 2**62},
            read=_whole(0, 2**62),
            default=0,
        ),
        Parameter(
            name="recipients",
            schema={"type": "string", "maxLength": RECIPIENTS_CHARACTERS_MAX, "pattern": r"^[\x20-\x7e]*$"},
            read=_recipients,
            default=(),
        ),
    ),
    answer_shares=2,
)
RECORD: Final = _volume(
    "record",
    "POST",
    WRITE,
    VolumeState,
    "Note that a dump is durable: later ones may build on it. Its revision must be here.",
    body=DumpRecord,
)
FORGET_DUMP: Final = _volume(
    "forget_dump",
    "POST",
    WRITE,
    VolumeState,
    "Note that a dump is gone: later ones no longer build on it. One that is not recorded is no error.",
    query=(_DUMP_ID,),
)
LOAD: Final = _volume(
    "load",
    "POST",
    WRITE,
    VolumeState,
    "Make a volume of uploaded dumps (that needs the right to administer), or bring one forward by increments.",
    body=wire.Load,
    is_long=True,
    brings_objects=True,
)

CALLS: Final[tuple[Call[Any], ...]] = tuple(each for each in list(globals().values()) if isinstance(each, Call))
"""Every call that is named above, in that order."""
assert len({call.name for call in CALLS}) == len(CALLS)
