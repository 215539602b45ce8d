"""The table of what can be asked of a server: the one place that says method, path, right, body and answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dalsegno.chunks.recipients import check_recipient
from dalsegno.formats.messages import HEX_PATTERN
from dalsegno.replicas.contract import BATCH_IDS_MAX, BLOCK_ANSWER_BYTES_MAX, STATE_BYTES_MAX
from dalsegno.replicas.tokens import ADMINISTER, APPEND, READ, WRITE
from dalsegno.replicas.wire import RECIPIENTS_CHARACTERS_MAX
from dalsegno.terms.errors import BadInput
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES
from dalsegno.terms.sizes import MIB

ANY_RIGHT: Final = "any"
"""A token that gives any right on the volume (or, where there is none in the path, on anything)."""
NO_TOKEN: Final = ""

JSON_BYTES_MAX: Final = 2 * MIB
UPLOAD_BYTES_MAX: Final = 256 * MIB
"""One pack of a transfer."""

OCTETS: Final = "application/octet-stream"
TEXT: Final = "text/plain"
JSON: Final = "application/json"

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
class Call:
    """One thing that can be asked."""

    name: str
    method: str
    path: str
    what: str
    right: str = ANY_RIGHT
    also: str = ""
    """Another right that opens it."""
    peers: bool = False
    """Whether another server of the realm, which holds the volume, may ask it without that right."""
    query: tuple[Parameter, ...] = ()
    body: str = ""
    """The name of a JSON message in wire.py or state.py, OCTETS for bytes, or empty."""
    body_bytes_max: int = JSON_BYTES_MAX
    """0: as large as the disk."""
    body_streams: bool = False
    answer: str = "Done"
    """The name of a JSON message, OCTETS, TEXT, or JSON for any other."""
    is_long: bool = False
    """It may take minutes: those that take no time do not wait for it."""
    answer_shares: int = 0
    """Of the memory for answers that stream (limits.STREAM_SHARES), for as long as it is sent."""
    errors: tuple[int, ...] = field(default=(404, 409, 422))
    """Beyond those that every call can have."""


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
OFFSET: Final = Parameter(
    name="offset",
    schema={"type": "integer", "minimum": 0, "maximum": 2**62},
    read=_whole(0, 2**62),
    required=True,
)
REVISION: Final = Parameter(
    name="revision", schema={"type": "string", "pattern": HEX_ID_PATTERN}, read=_hex(OBJECT_ID_BYTES), required=True
)

DUMP: Final = Parameter(
    name="dump", schema={"type": "string", "pattern": HEX_UPLOAD_PATTERN}, read=_hex(UUID_BYTES), required=True
)


def _optional_hex(name: str, bytes_count: int, pattern: str) -> Parameter:
    return Parameter(name=name, schema={"type": "string", "pattern": pattern}, read=_hex(bytes_count), default=b"")


def _volume(name: str, method: str, right: str, what: str, **more: Any) -> Call:
    return Call(name=name, method=method, path=f"/v1/volumes/{{volume}}/{name}", right=right, what=what, **more)


CALLS: Final = (
    Call(
        name="health",
        method="GET",
        path="/health",
        right=NO_TOKEN,
        what="Tell that the server works: 503 when its pool cannot be read.",
        answer="Health",
        errors=(),
    ),
    Call(name="metrics", method="GET", path="/metrics", what="Counts for Prometheus.", answer=TEXT, errors=()),
    Call(name="openapi", method="GET", path="/openapi.json", right=NO_TOKEN, what="This page.", answer=JSON, errors=()),
    Call(name="server", method="GET", path="/v1/server", what="Who answers.", answer="ServerInfo", errors=()),
    Call(
        name="key",
        method="GET",
        path="/v1/key",
        what="The realm's secret; for a token that may not read, what is enough to write.",
        answer="RealmKey",
        errors=(),
    ),
    Call(
        name="realm",
        method="GET",
        path="/v1/realm",
        what="The realm's directory, as this server knows it.",
        answer="RealmView",
        errors=(404,),
    ),
    Call(
        name="publish",
        method="PUT",
        path="/v1/realm/volumes/{volume}",
        right=APPEND,
        what="Put into the directory where a volume is: taken when its version is larger than the one there. Without "
        "the right to administer: a new volume on one server.",
        body="Placed",
        errors=(404, 409, 422),
    ),
    Call(
        name="forget",
        method="DELETE",
        path="/v1/realm/volumes/{volume}",
        right=ADMINISTER,
        what="Forget in the directory where a volume is.",
        errors=(404, 409),
    ),
    Call(
        name="remove_server",
        method="DELETE",
        path="/v1/realm/servers/{server}",
        right=ADMINISTER,
        what="Forget a server that holds no volume.",
        errors=(404, 409),
    ),
    Call(
        name="failure",
        method="GET",
        path="/v1/failures/{request_id}",
        what="Why the answer to an earlier request with this token ended before its end.",
        answer="Problem",
        errors=(404,),
    ),
    Call(name="states", method="GET", path="/v1/states", what="The volumes.", answer="States", errors=()),
    Call(
        name="tokens", method="GET", path="/v1/tokens", right=ADMINISTER, what="The tokens.", answer="Tokens", errors=()
    ),
    Call(
        name="add_token",
        method="POST",
        path="/v1/tokens",
        right=ADMINISTER,
        what="Make a token. Its text is in this answer and nowhere else.",
        body="NewToken",
        answer="MadeToken",
        errors=(),
    ),
    Call(
        name="revoke_token",
        method="DELETE",
        path="/v1/tokens/{token_id}",
        right=ADMINISTER,
        what="Revoke a token; it opens nothing from now on.",
        answer="TokenView",
        errors=(404, 409),
    ),
    Call(
        name="dump_size",
        method="GET",
        path="/v1/dumps/{upload}",
        what="How many bytes of an uploaded dump are there; 0 for one never begun.",
        answer="Size",
        errors=(),
    ),
    Call(
        name="send_dump",
        method="PUT",
        path="/v1/dumps/{upload}",
        right=WRITE,
        what="Add bytes to an uploaded dump at `offset`, at most its size.",
        query=(OFFSET,),
        body=OCTETS,
        body_bytes_max=0,
        body_streams=True,
        answer="Size",
        errors=(409, 422),
    ),
    Call(
        name="drop_dump",
        method="DELETE",
        path="/v1/dumps/{upload}",
        right=WRITE,
        what="Forget an uploaded dump.",
        errors=(),
    ),
    _volume("state", "GET", ANY_RIGHT, "The state of a volume.", answer="VolumeState", errors=(404,)),
    _volume(
        "block",
        "GET",
        READ,
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
        answer=OCTETS,
        errors=(404,),
    ),
    _volume(
        "missing",
        "POST",
        READ,
        "Rows of 36 bytes (id, then u32: payload length | kind << 28) of what `targets` reach and `bases` do not.",
        body="Missing",
        answer=OCTETS,
        answer_shares=1,
    ),
    _volume(
        "objects",
        "POST",
        READ,
        "A pack that holds exactly the objects whose ids the body joins.",
        body=OCTETS,
        body_bytes_max=BATCH_IDS_MAX * OBJECT_ID_BYTES,
        answer=OCTETS,
        answer_shares=1,
    ),
    _volume(
        "have",
        "POST",
        APPEND,
        "One byte for each id in the body: 1 when the object, with all that it names, is there to stay.",
        also=READ,  # who may fetch an object finds out whether it is there
        body=OCTETS,
        body_bytes_max=BATCH_IDS_MAX * OBJECT_ID_BYTES,
        answer=OCTETS,
    ),
    Call(
        name="upload_size",
        method="GET",
        path="/v1/volumes/{volume}/uploads/{upload}",
        right=APPEND,
        what="How many bytes of an upload are there; 0 for one never begun.",
        answer="Size",
    ),
    Call(
        name="upload",
        method="PUT",
        path="/v1/volumes/{volume}/uploads/{upload}",
        right=APPEND,
        what="Add bytes of a pack to an upload at `offset`, at most its size.",
        query=(OFFSET,),
        body=OCTETS,
        body_bytes_max=UPLOAD_BYTES_MAX,
        body_streams=True,
        answer="Size",
    ),
    _volume("adopt", "POST", APPEND, "Check whole uploads and keep what they hold.", body="Adopt", is_long=True),
    _volume(
        "commit",
        "POST",
        APPEND,
        "Upload the pack in the body (whole), adopt it, advance to `revision`; with the right to write agree on "
        "`common`, too.",
        query=(
            REVISION,
            _optional_hex("upload", UUID_BYTES, HEX_UPLOAD_PATTERN),
            _optional_hex("common", OBJECT_ID_BYTES, HEX_ID_PATTERN),
            Parameter(name="owner", schema=_PRINTABLE, read=_line(200), default=""),
            _optional_hex("secret", UUID_BYTES, HEX_UPLOAD_PATTERN),
        ),
        body=OCTETS,
        body_bytes_max=UPLOAD_BYTES_MAX,
        body_streams=True,
        answer="VolumeState",
    ),
    _volume("advance", "POST", APPEND, "Move the head forward.", body="Advance", answer="VolumeState"),
    _volume("clone", "POST", APPEND, "Name a revision.", body="NamedClone", answer="VolumeState"),
    _volume("agree", "POST", WRITE, "Note what every writer has.", body="Agree"),
    _volume("freeze", "POST", WRITE, "Freeze a volume, or freeze on.", body="Freeze", answer="VolumeState"),
    _volume("thaw", "POST", WRITE, "End a lease.", body="Thaw"),
    _volume("unclone", "POST", WRITE, "Forget a clone.", body="Unclone", answer="VolumeState"),
    _volume(
        "create",
        "POST",
        APPEND,
        "Make an empty volume; the same again is no error. Without the right to administer: a plain one on this "
        "server alone.",
        body="VolumeState",
        body_bytes_max=STATE_BYTES_MAX,
        answer="VolumeState",
    ),
    _volume("remove", "POST", ADMINISTER, "Forget a volume on this server."),
    _volume(
        "arrange",
        "POST",
        ADMINISTER,
        "Take a replica set with a larger version.",
        peers=True,
        body="ReplicaSet",
        answer="VolumeState",
    ),
    _volume(
        "reopen",
        "POST",
        ADMINISTER,
        "Put a revision of now in the place of a head that is of the future, after which no commit could come.",
        body="Reopen",
        answer="VolumeState",
    ),
    _volume("switch", "POST", ADMINISTER, "Show a release.", body="Release", answer="VolumeState"),
    _volume(
        "watch",
        "GET",
        ANY_RIGHT,
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
        answer="VolumeState",
    ),
    _volume(
        "dump",
        "GET",
        READ,
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
        answer=OCTETS,
        answer_shares=2,
    ),
    _volume(
        "record",
        "POST",
        WRITE,
        "Note that a dump is durable: later ones may build on it. Its revision must be here.",
        body="DumpRecord",
        answer="VolumeState",
    ),
    _volume(
        "forget_dump",
        "POST",
        WRITE,
        "Note that a dump is gone: later ones no longer build on it. One that is not recorded is no error.",
        query=(DUMP,),
        answer="VolumeState",
    ),
    _volume(
        "load",
        "POST",
        WRITE,
        "Make a volume of uploaded dumps (that needs the right to administer), or bring one forward by increments.",
        body="Load",
        is_long=True,
        answer="VolumeState",
    ),
)

assert len({call.name for call in CALLS}) == len(CALLS)
assert HEX_PATTERN
