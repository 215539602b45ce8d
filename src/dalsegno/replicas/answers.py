"""What a server says, looked at before anything of it is used (docs/formats/http.md, "Answers"). Pure.

A server may be broken into, or lie. What it says of objects is checked by their ids; all else passes `check` here:
every name is one that a volume, a clone or a server may have, every id has its length, every number is in its range, no
text is longer than it may be. So nothing of it is more than a name when it becomes part of a path, a line or a command.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from dalsegno.chunks.realm import SECRET_BYTES
from dalsegno.chunks.recipients import check_recipient
from dalsegno.formats.join import check_fingerprint, check_url
from dalsegno.pool.settings import GENERATIONS_MAX
from dalsegno.replicas import wire
from dalsegno.replicas.tokens import NOTE_BYTES_MAX, PATTERN_BYTES_MAX, PATTERNS_MAX, RIGHTS, split_token
from dalsegno.replicas.view import Placed, RealmView, Server, check_realm_name
from dalsegno.terms.errors import BadInput
from dalsegno.terms.ids import OBJECT_ID_BYTES, UUID_BYTES
from dalsegno.terms.sizes import KIB
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import (
    ANY,
    MAJORITY,
    NATIVE,
    READER,
    STANDBY,
    TRACKED,
    WRITER,
    Lease,
    Release,
    ReplicaSet,
    VolumeState,
)
from dalsegno.volumes.store import check_clone_name, check_volume_name

NUMBER_MAX: Final = 2**62
"""Of instants in nanoseconds (which is the year 2116), counts, sizes and versions: one more is still a number."""
PATH_CHARACTERS_MAX: Final = 4096
LINE_CHARACTERS_MAX: Final = 200
SETTING_CHARACTERS_MAX: Final = 64 * KIB
LEVEL_MAX: Final = 9
PROOF_BYTES_MAX: Final = 64
SERVERS_MAX: Final = 1000
T = TypeVar("T")


def check(answer: T, *, volume: str = "") -> T:
    """Return an answer that can be used; BadInput says what of it cannot. `volume`: the name that was asked for."""
    looked_at = CHECKS.get(type(answer))
    if looked_at is not None:
        looked_at(answer)
    if volume and isinstance(answer, VolumeState) and answer.name != volume:
        raise BadInput(f"it is of volume {answer.name!r}, and {volume!r} was asked for")
    return answer


def check_state(state: VolumeState) -> None:
    """Refuse a state that no volume can have."""
    check_volume_name(state.name)
    _id("volume", state.id, UUID_BYTES)
    _one_of("kind", state.kind, (NATIVE, TRACKED))
    _one_of("role", state.role, (WRITER, READER, STANDBY, ""))
    if len(state.source) > PATH_CHARACTERS_MAX or b"\0" in state.source:
        raise BadInput("source: is no path")
    _instant("created_ns", state.created_ns)
    _number("counter", state.counter)
    _id("head", state.head, OBJECT_ID_BYTES, or_none=True)
    _id("common", state.common, OBJECT_ID_BYTES, or_none=True)
    for name, clone in state.clones.newest.items():  # those in the table when they are read
        check_named_clone(name, clone)
    table = state.clones.table
    if table is not None:
        _number("count of older clones", table.count)
        _instant("until_ns", table.until_ns)
    for name, clones in state.uncloned.items():
        check_clone_name(name)
        for clone in clones:
            check_named_clone(name, clone)
    for record in state.dumps.newest:  # those in the table when they are read
        check_record(record)
    older = state.dumps.table
    if older is not None:
        _number("count of older dumps", older.count)
        _instant("until_ns", older.until_ns)
    for key, value in state.settings.items():
        _check_setting(key, value)
    if state.lease is not None:
        check_lease(state.lease)
    if state.replicas is not None:
        check_replicas(state.replicas)
    if state.released is not None:
        check_release(state.released)


def check_named_clone(name: str, clone: Clone) -> None:
    """Refuse a clone that no volume can have under this name."""
    check_clone_name(name)
    check_clone(clone)


def check_clone(clone: Clone) -> None:
    """Refuse a clone of no revision, or of no time."""
    _id("clone", clone.revision, OBJECT_ID_BYTES)
    _instant("clone's created_ns", clone.created_ns)
    _number("clone's entry_count", clone.entry_count or 0)
    _number("clone's total_bytes", clone.total_bytes or 0)


def check_record(record: DumpRecord) -> None:
    """Refuse the record of no dump."""
    _id("dump", record.dump_id, UUID_BYTES)
    _id("base of a dump", record.base_dump, UUID_BYTES, or_none=True)
    _id("revision of a dump", record.revision, OBJECT_ID_BYTES)
    _number("level", record.level, most=LEVEL_MAX)
    _instant("taken_at_ns", record.taken_at_ns)
    _number("size_bytes", record.size_bytes)
    _text("path of a dump", record.path, PATH_CHARACTERS_MAX)
    _text("recorder", record.recorder, PATH_CHARACTERS_MAX)


def check_lease(lease: Lease) -> None:
    """Refuse a lease of nobody."""
    _text("owner of a lease", lease.owner, LINE_CHARACTERS_MAX)
    _instant("until_ns", lease.until_ns)
    if len(lease.proof) > PROOF_BYTES_MAX:
        raise BadInput("proof of a lease: too long")


def check_replicas(replicas: ReplicaSet) -> None:
    """Refuse a replica set that names no servers, or by no rule that there is."""
    _number("version", replicas.version)
    _one_of("rule", replicas.rule, (ANY, MAJORITY))
    names = [*replicas.writers, *replicas.readers, *replicas.standbys, *replicas.clones]
    _names(names)
    if replicas.moved_to:
        check_realm_name(replicas.moved_to)
    for pattern in replicas.clones.values():
        _text("pattern of clones", pattern, PATTERN_BYTES_MAX)


def check_release(release: Release) -> None:
    """Refuse a release of no revision."""
    _number("number", release.number)
    _id("release", release.revision, OBJECT_ID_BYTES)
    _instant("released_ns", release.released_ns)
    if release.clone:
        check_clone_name(release.clone)


def _check_setting(key: str, value: str | int | bool | list[str]) -> None:
    _text("key of a setting", key, LINE_CHARACTERS_MAX)
    for text in value if isinstance(value, list) else [str(value)]:
        _text(f"setting {key[:40]!r}", text, SETTING_CHARACTERS_MAX)


# What is said of the realm


def check_view(view: RealmView) -> None:
    """Refuse a directory whose servers or volumes have no name, or whose servers are nowhere."""
    check_realm_name(view.name)
    _id("realm", view.realm, UUID_BYTES)
    _number("as_of_ns", view.as_of_ns)
    _names([server.name for server in view.servers], once=True)
    for server in view.servers:
        check_server(server)
    for placed in view.volumes:
        check_placed(placed)


def check_server(server: Server) -> None:
    """Refuse a server that has no name, or is nowhere."""
    check_realm_name(server.name)
    check_url(server.url)
    check_fingerprint(server.fingerprint)
    _number("seen_ns", server.seen_ns)


def check_placed(placed: Placed) -> None:
    """Refuse a place of no volume."""
    check_volume_name(placed.name)
    _id("volume", placed.id, UUID_BYTES)
    check_replicas(placed.replicas)


def check_info(info: wire.ServerInfo) -> None:
    """Refuse a server that does not say who it is."""
    check_realm_name(info.name)
    _id("realm", info.realm, UUID_BYTES)
    _line("version", info.version)
    _line("protocol", info.protocol)
    _number("now_ns", info.now_ns)
    _rights(info.rights, info.volumes)


def check_key(key: wire.RealmKey) -> None:
    """Refuse what is no realm's secret, and no key to write into one."""
    _id("realm", key.realm, UUID_BYTES)
    if not 1 <= key.generation <= GENERATIONS_MAX or len(key.older) >= GENERATIONS_MAX:
        raise BadInput(f"generation {key.generation} of the key: expected 1 to {GENERATIONS_MAX}")
    for secret in key.older:
        _id("key", secret, SECRET_BYTES)
    if key.secret:
        _id("key", key.secret, SECRET_BYTES)
    if not key.secret or key.id_key or key.chunk_seed or key.recipient:
        _id("key", key.id_key, SECRET_BYTES)
        _id("seed", key.chunk_seed, 8)
        check_recipient(key.recipient)


def check_token_view(token: wire.TokenView) -> None:
    """Refuse a row that is of no token."""
    _line("token", token.id)
    _rights(token.rights, token.volumes)
    _text("note", token.note, NOTE_BYTES_MAX)
    for number in (token.created_ns, token.expires_ns, token.used_ns):
        _number("time of a token", number)


def check_made_token(made: wire.MadeToken) -> None:
    """Refuse a text that is no token."""
    if split_token(made.token) is None:
        raise BadInput("token: is none")
    check_token_view(made.view)


def check_size(size: wire.Size) -> None:
    """Refuse a size that nothing has."""
    _number("size", size.size)


def _each(of: Callable[[Any], Iterable[Any]]) -> Callable[[Any], None]:
    def looked_at(answer: Any) -> None:
        for each in of(answer):
            check(each)

    return looked_at


CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    VolumeState: check_state,
    wire.States: _each(lambda states: states.volumes),
    RealmView: check_view,
    wire.ServerInfo: check_info,
    wire.RealmKey: check_key,
    wire.Tokens: _each(lambda tokens: tokens.tokens),
    wire.TokenView: check_token_view,
    wire.MadeToken: check_made_token,
    wire.Size: check_size,
    # What a server is asked to take, so that nothing gets into a state that no client would believe.
    Placed: check_placed,
    DumpRecord: check_record,
    ReplicaSet: check_replicas,
    Release: check_release,
    wire.NamedClone: lambda asked: check_named_clone(asked.name, asked.clone),
}
"""Kind of message: what looks at it. Of answers that are not here (Done, Problem, Health) nothing is used."""


# Values


def _id(what: str, identity: bytes, length: int, *, or_none: bool = False) -> None:
    if len(identity) != length and (identity or not or_none):
        raise BadInput(f"{what}: an id of {len(identity)} bytes, not {length}")


def _number(what: str, number: int, *, most: int = NUMBER_MAX) -> None:
    if not 0 <= number <= most:
        raise BadInput(f"{what}: {number} is not from 0 to {most}")


def _instant(what: str, at_ns: int) -> None:
    if not -NUMBER_MAX <= at_ns <= NUMBER_MAX:  # clocks that were wrong stay legitimate
        raise BadInput(f"{what}: {at_ns} is no instant")


def _text(what: str, text: str, characters_max: int) -> None:
    if len(text) > characters_max or "\0" in text:
        raise BadInput(f"{what}: longer than {characters_max} characters, or with a zero byte in it")


def _line(what: str, text: str) -> None:
    _text(what, text, LINE_CHARACTERS_MAX)
    if not text.isprintable():
        raise BadInput(f"{what}: expected one line")


def _one_of(what: str, text: str, known: Iterable[str]) -> None:
    if text not in known:
        raise BadInput(f"{what}: {text[:40]!r} is none")


def _names(names: list[str], *, once: bool = False) -> None:
    if len(names) > SERVERS_MAX or (once and len(set(names)) < len(names)):
        raise BadInput(f"servers: more than {SERVERS_MAX}, or one stands twice")
    for name in names:
        check_realm_name(name)


def _rights(rights: list[str], patterns: list[str]) -> None:
    if len(rights) > len(RIGHTS) or len(patterns) > PATTERNS_MAX:
        raise BadInput("rights: more than there are")
    for right in rights:
        _line("right", right)
    for pattern in patterns:
        _line("pattern of volumes", pattern)
