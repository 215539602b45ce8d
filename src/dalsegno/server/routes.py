"""What each call does: thin, over the Site and the open house. All of this runs in threads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import msgspec

from dalsegno.actions import serve as actions
from dalsegno.actions.session import House
from dalsegno.formats.object_records import encode_records
from dalsegno.replicas import calls, wire
from dalsegno.replicas.calls import CALLS, Call
from dalsegno.replicas.contract import Reopener, Site
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.servers import Desk
from dalsegno.replicas.tokens import ADMINISTER, READ, WRITE, Token, TokenStore, new_token, store_of
from dalsegno.replicas.view import Placed, RealmView
from dalsegno.server.bodies import Outlet, Taking
from dalsegno.server.limits import DUMPS_BYTES_OF_TOKEN_MAX
from dalsegno.server.peers import as_peer, is_placed
from dalsegno.server.shown import Shown
from dalsegno.terms.errors import AlreadyThere, BadInput, NoAccess, NotFound, Refused, Unavailable
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId
from dalsegno.volumes.dates import is_old
from dalsegno.volumes.leases import owner_with_secret
from dalsegno.volumes.state import NATIVE, WRITER, ReplicaSet, VolumeState
from dalsegno.volumes.store import check_clone_name
from dalsegno.world.clock import now_ns

NOBODY: Final = Token(id="", digest=b"", rights=[], volumes=[], created_ns=0)


class OpenSite(Site, Protocol):
    """A Site that takes uploads as they come: one that is slow holds no thread."""

    def uploading(self, volume: str, upload: bytes, offset: int) -> Taking[int]:
        """Return what `upload` is, without its pieces."""
        ...

    def committing(
        self, volume: str, revision: bytes, upload: bytes, *, common: bytes = b"", owner: str = ""
    ) -> Taking[VolumeState]:
        """Return what `commit` is, without its pieces."""
        ...


@dataclass(slots=True, kw_only=True)
class Service:
    """What the server serves."""

    name: str
    version: str
    """Of this program."""
    site: OpenSite
    house: House
    tokens: Sequence[TokenStore]
    """Looked into one after the other; new ones go into the first."""
    desk: Desk | None = None
    """The realm's directory as this server knows it."""
    place_of: Callable[[str], str] = field(default=lambda name: "")
    """The URL of another server of the realm; empty when it is not known."""
    extra_metrics: Callable[[Callable[[str], bool]], Sequence[str]] = field(default=lambda covers: ())
    """Further lines for Prometheus, about the volumes that the token covers."""
    dumps_bytes_max: int = DUMPS_BYTES_OF_TOKEN_MAX
    """Of dumps that were sent with one token and not loaded yet; who may administer all volumes has no bound."""
    shown: Shown = field(default_factory=Shown)
    """What tokens that may not read all volumes were given."""

    def as_peer(self, token: Token, volume: str) -> Token:
        """Return the token of another server with what it may do."""
        return as_peer(token, self.site, self.desk, volume=volume)

    def site_for(self, token: Token) -> OpenSite:
        """Return the site as it is for a token: his uploads are his own, and of others' volumes he gets no revision."""
        if not isinstance(self.site, Keeper):
            return self.site
        return self.site.asked_by(token.id, sees_all=token.allows_everywhere(READ))


@dataclass(slots=True, kw_only=True)
class Ask:
    """One request, checked: its token may do this."""

    token: Token
    volume: str = ""
    upload: bytes = b""
    token_id: str = ""
    request_id: str = ""
    server: str = ""
    query: dict[str, Any]
    body: Any = None
    """A message or bytes; None where the body streams: what a route returns there takes it piece by piece."""


Work = Callable[[Outlet], Any]


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that is written as it is sent."""

    work: Work


A = TypeVar("A")
Route = Callable[[Service, Ask], A | Taking[A] | Iterator[bytes] | Written]
"""Returns what the table says, or what takes a body piece by piece and returns that, or bytes as they are sent."""
ROUTES: Final[dict[str, Route[Any]]] = {}


def _answers(call: Call[A]) -> Callable[[Route[A]], Route[A]]:
    """Make a function the route of a call."""

    def note(route: Route[A]) -> Route[A]:
        ROUTES[call.name] = route
        return route

    return note


@_answers(calls.HEALTH)
def _health(service: Service, ask: Ask) -> wire.Health:
    if not service.house.pool.backend.is_there():
        raise Unavailable("the pool cannot be reached")
    return wire.Health(status="ok")


@_answers(calls.SERVER)
def _server(service: Service, ask: Ask) -> wire.ServerInfo:
    return wire.ServerInfo(
        name=service.name,
        version=service.version,
        protocol=wire.PROTOCOL,
        realm=service.house.pool.realm.realm_id,
        now_ns=now_ns(),
        rights=ask.token.rights,
        volumes=ask.token.volumes,
    )


@_answers(calls.KEY)
def _key(service: Service, ask: Ask) -> wire.RealmKey:
    service.house.pool.renew_key()
    realm = service.house.pool.realm
    newest, *older = realm.secrets
    if READ in ask.token.effective():
        return wire.RealmKey(realm=realm.realm_id, secret=newest, older=older, generation=len(older) + 1)
    return wire.RealmKey(
        realm=realm.realm_id,
        id_key=realm.id_key,
        chunk_seed=realm.chunk_seed.to_bytes(8, "little"),
        recipient=realm.recipient,
        generation=realm.generation,
    )


def _desk(service: Service) -> Desk:
    if service.desk is None:
        raise NotFound("this server belongs to no realm with a directory: `dal realm init` makes one")
    return service.desk


@_answers(calls.REALM)
def _realm(service: Service, ask: Ask) -> RealmView:
    view = _desk(service).view()
    return msgspec.structs.replace(view, volumes=[each for each in view.volumes if ask.token.covers(each.name)])


@_answers(calls.PUBLISH)
def _publish(service: Service, ask: Ask) -> wire.Done:
    placed: Placed = ask.body
    if placed.name != ask.volume:
        raise BadInput(f"the body is of volume {placed.name!r}, the path of {ask.volume!r}")
    if not ask.token.allows(ADMINISTER, ask.volume):
        # A first version never takes the place of another.
        known = any(each.id == placed.id and each.name != placed.name for each in _desk(service).view().volumes)
        if known or not _is_plain(placed.replicas):
            raise NoAccess("this token puts only new volumes into the directory, each on one server")
    _desk(service).publish(placed)
    return wire.Done()


@_answers(calls.FORGET)
def _forget(service: Service, ask: Ask) -> wire.Done:
    _desk(service).forget(ask.volume)
    return wire.Done()


@_answers(calls.REMOVE_SERVER)
def _remove_server(service: Service, ask: Ask) -> wire.Done:
    _require_everywhere(ask)
    _desk(service).remove_server(ask.server)
    return wire.Done()


@_answers(calls.STATES)
def _states(service: Service, ask: Ask) -> wire.States:
    return wire.States(volumes=[state for state in service.site.states() if ask.token.covers(state.name)])


def token_view(token: Token) -> wire.TokenView:
    """Return a token as it may be shown."""
    return wire.TokenView(
        id=token.id,
        rights=token.rights,
        volumes=token.volumes,
        note=token.note,
        created_ns=token.created_ns,
        expires_ns=token.expires_ns,
        used_ns=token.used_ns,
        peer=token.peer,
    )


def _require_everywhere(ask: Ask) -> None:
    if not ask.token.allows_everywhere(ADMINISTER):
        raise NoAccess("this needs a token with the right to administer all volumes ('*')")


@_answers(calls.TOKENS)
def _tokens(service: Service, ask: Ask) -> wire.Tokens:
    _require_everywhere(ask)
    return wire.Tokens(tokens=[token_view(token) for store in service.tokens for token in store.all()])


@_answers(calls.ADD_TOKEN)
def _add_token(service: Service, ask: Ask) -> wire.MadeToken:
    _require_everywhere(ask)
    wanted: wire.NewToken = ask.body
    now = now_ns()
    token, text = new_token(
        rights=wanted.rights,
        volumes=wanted.volumes,
        note=wanted.note,
        now_ns=now,
        expires_ns=now + wanted.expires_seconds * 1_000_000_000 if wanted.expires_seconds else 0,
    )
    service.tokens[0].add(token)
    return wire.MadeToken(token=text, view=token_view(token))


@_answers(calls.REVOKE_TOKEN)
def _revoke_token(service: Service, ask: Ask) -> wire.TokenView:
    _require_everywhere(ask)
    store = store_of(service.tokens, ask.token_id)
    if store is None:
        raise NotFound(f"no token {ask.token_id!r}")
    return token_view(store.revoke(ask.token_id))


@_answers(calls.DUMP_SIZE)
def _dump_size(service: Service, ask: Ask) -> wire.Size:
    return wire.Size(size=actions.incoming_size(service.house, ask.token.id, ask.upload))


def _require_a_volume(service: Service, ask: Ask) -> None:
    """Refuse dumps that could be loaded into nothing."""
    makes_one = ADMINISTER in ask.token.effective()
    if not makes_one and not any(ask.token.allows(WRITE, state.name) for state in service.site.states()):
        raise NotFound("no volume here into which this token may load a dump")


@_answers(calls.SEND_DUMP)
def _send_dump(service: Service, ask: Ask) -> Taking[wire.Size]:
    _require_a_volume(service, ask)
    bytes_max = None if ask.token.allows_everywhere(ADMINISTER) else service.dumps_bytes_max
    size = yield from actions.receive_dump(
        service.house, ask.token.id, ask.upload, ask.query["offset"], bytes_max=bytes_max
    )
    return wire.Size(size=size)


@_answers(calls.DROP_DUMP)
def _drop_dump(service: Service, ask: Ask) -> wire.Done:
    actions.drop_dump(service.house, ask.token.id, ask.upload)
    return wire.Done()


@_answers(calls.DUMP)
def _dump(service: Service, ask: Ask) -> Written:
    service.house.volumes.get(ask.volume)
    query = ask.query

    def work(outlet: Outlet) -> None:
        actions.stream_dump(
            service.house,
            ask.volume,
            outlet,
            clone=query["clone"],
            level=query["level"],
            base=query["base"],
            taken_at_ns=query["taken"],
            recipients=query["recipients"],
            sees_all=ask.token.allows_everywhere(READ),
        )

    return Written(work)


@_answers(calls.RECORD)
def _record(service: Service, ask: Ask) -> VolumeState:
    return actions.record(service.house, ask.volume, ask.body, sees_all=ask.token.allows_everywhere(READ))


@_answers(calls.FORGET_DUMP)
def _forget_dump(service: Service, ask: Ask) -> VolumeState:
    return actions.forget(service.house, ask.volume, ask.query["dump"])


@_answers(calls.LOAD)
def _load(service: Service, ask: Ask) -> VolumeState:
    return actions.load_dumps(
        service.house,
        ask.token.id,
        ask.body.dumps,
        ask.volume,
        may_administer=ask.token.allows(ADMINISTER, ask.volume),
        sees_all=ask.token.allows_everywhere(READ),
    )


@_answers(calls.STATE)
def _state(service: Service, ask: Ask) -> VolumeState:
    return service.site.state(ask.volume)


@_answers(calls.BLOCK)
def _block(service: Service, ask: Ask) -> bytes:
    wanted = ask.query["id"]
    records = service.site_for(ask.token).block(ask.volume, ObjectId(wanted), bytes_max=ask.query["most"])
    if not ask.token.allows_everywhere(READ):
        # What lies beside may be of other volumes.
        records = service.shown.choose(ask.token.id, wanted, records)
    return encode_records(records)


@_answers(calls.MISSING)
def _missing(service: Service, ask: Ask) -> Iterator[bytes]:
    return service.site_for(ask.token).missing(ask.volume, ask.body.targets, ask.body.bases)


def _joined_ids(data: bytes) -> bytes:
    if len(data) % OBJECT_ID_BYTES:
        raise BadInput(f"the body is not made of ids of {OBJECT_ID_BYTES} bytes")
    return data


@_answers(calls.OBJECTS)
def _objects(service: Service, ask: Ask) -> Iterator[bytes]:
    return service.site_for(ask.token).objects(ask.volume, _joined_ids(ask.body))


@_answers(calls.HAVE)
def _have(service: Service, ask: Ask) -> bytes:
    return service.site.have(ask.volume, _joined_ids(ask.body))


@_answers(calls.UPLOAD_SIZE)
def _upload_size(service: Service, ask: Ask) -> wire.Size:
    return wire.Size(size=service.site_for(ask.token).upload_size(ask.volume, ask.upload))


@_answers(calls.UPLOAD)
def _upload(service: Service, ask: Ask) -> Taking[wire.Size]:
    size = yield from service.site_for(ask.token).uploading(ask.volume, ask.upload, ask.query["offset"])
    return wire.Size(size=size)


@_answers(calls.ADOPT)
def _adopt(service: Service, ask: Ask) -> wire.Done:
    service.site_for(ask.token).adopt(ask.volume, ask.body.uploads)
    return wire.Done()


def _owner(name: str, secret: bytes) -> str:
    """Return whose lease counts as that of who asks: nobody's without a secret, which the state does not show."""
    return owner_with_secret(name, secret) if name and secret else ""


@_answers(calls.COMMIT)
def _commit(service: Service, ask: Ask) -> Taking[VolumeState]:
    query = ask.query
    # What every writer has only a token that may write tells; one that appends leaves it to them.
    common = query["common"] if ask.token.allows(WRITE, ask.volume) else b""
    return (
        yield from service.site_for(ask.token).committing(
            ask.volume,
            query["revision"],
            query["upload"],
            common=common,
            owner=_owner(query["owner"], query["secret"]),
        )
    )


@_answers(calls.ADVANCE)
def _advance(service: Service, ask: Ask) -> VolumeState:
    return service.site_for(ask.token).advance(
        ask.volume, ask.body.revision, owner=_owner(ask.body.owner, ask.body.secret)
    )


@_answers(calls.AGREE)
def _agree(service: Service, ask: Ask) -> wire.Done:
    if len(ask.body.revision) not in (0, OBJECT_ID_BYTES):
        raise BadInput("revision: expected an id, or nothing")
    service.site.agree(ask.volume, ask.body.revision, uncloned=ask.body.uncloned)
    return wire.Done()


@_answers(calls.REOPEN)
def _reopen(service: Service, ask: Ask) -> VolumeState:
    if len(ask.body.revision) not in (0, OBJECT_ID_BYTES):
        raise BadInput("revision: expected an id, or nothing")
    if not isinstance(service.site, Reopener):
        raise Refused(f"{service.name}: reopens no volumes")
    return service.site.reopen(ask.volume, at_ns=ask.body.at_ns, content=ask.body.revision)


@_answers(calls.FREEZE)
def _freeze(service: Service, ask: Ask) -> VolumeState:
    owner = _owner(ask.body.owner, ask.body.secret)
    return service.site.freeze(ask.volume, owner=owner, seconds=ask.body.seconds)


@_answers(calls.THAW)
def _thaw(service: Service, ask: Ask) -> wire.Done:
    service.site.thaw(ask.volume, owner=_owner(ask.body.owner, ask.body.secret))
    return wire.Done()


@_answers(calls.CLONE)
def _clone(service: Service, ask: Ask) -> VolumeState:
    check_clone_name(ask.body.name)
    is_dated_back = is_old(ask.body.clone.created_ns, now_ns=now_ns())
    if is_dated_back and not ask.token.allows(WRITE, ask.volume) and not _has_clone(service, ask):
        # Clones that servers bring one another are old; one that is new and says it is old takes the place of others.
        raise Refused(f"clone {ask.volume}@{ask.body.name}: is dated back: this token names what is there now")
    return service.site_for(ask.token).clone(ask.volume, ask.body.name, ask.body.clone)


def _has_clone(service: Service, ask: Ask) -> bool:
    return ask.body.name in service.site.state(ask.volume).clones


@_answers(calls.UNCLONE)
def _unclone(service: Service, ask: Ask) -> VolumeState:
    return service.site.unclone(ask.volume, ask.body.name, ask.body.clone, here_only=ask.body.here_only)


@_answers(calls.CREATE)
def _create(service: Service, ask: Ask) -> VolumeState:
    state: VolumeState = ask.body
    if state.name != ask.volume:
        raise BadInput(f"the body is of volume {state.name!r}, the path of {ask.volume!r}")
    if ask.token.allows(ADMINISTER, ask.volume):
        return service.site.create(state)
    return _create_plain(service, ask, state)


def _is_plain(replicas: ReplicaSet | None) -> bool:
    """Tell whether a replica set is that of a new volume on one server."""
    return (
        replicas is not None
        and replicas == ReplicaSet(version=1, writers=replicas.writers)
        and (len(replicas.writers) == 1)
    )


def _create_plain(service: Service, ask: Ask, state: VolumeState) -> VolumeState:
    """Make a volume for a token that may only append: an empty one on this server, with nothing that binds others."""
    plain = VolumeState(
        id=state.id,
        name=state.name,
        kind=NATIVE,
        source=b"",
        created_ns=state.created_ns,
        role=WRITER,
        replicas=ReplicaSet(version=1, writers=[service.name]),
    )
    if state != plain:
        raise NoAccess("this token makes only empty volumes on this server, without settings: more needs to administer")
    states = service.site.states()
    there = [each for each in states if each.name == state.name or each.id == state.id]
    if not there:
        if sum(ask.token.covers(each.name) for each in states) >= VOLUMES_APPENDED_MAX:
            raise Refused(f"this token has {VOLUMES_APPENDED_MAX} volumes already: who may administer makes more")
        return service.site.create(state)
    if there[0].name != state.name or there[0].id != state.id:
        raise AlreadyThere(f"volume {state.name!r} exists already: choose another name")
    return there[0]


@_answers(calls.REMOVE)
def _remove(service: Service, ask: Ask) -> wire.Done:
    service.site.remove(ask.volume)
    return wire.Done()


@_answers(calls.ARRANGE)
def _arrange(service: Service, ask: Ask) -> VolumeState:
    if ask.token.peer and not is_placed(service.desk, ask.volume, ask.body):
        raise NoAccess(f"volume {ask.volume!r}: another server tells only of the replica set that the directory has")
    return service.site.arrange(ask.volume, ask.body)


@_answers(calls.SWITCH)
def _switch(service: Service, ask: Ask) -> VolumeState:
    return service.site_for(ask.token).switch(ask.volume, ask.body)


VOLUMES_APPENDED_MAX: Final = 1000
"""How many volumes a token may have made that only appends."""

IN_THE_LOOP: Final = frozenset(("failure", "metrics", "openapi", "watch"))
"""What app.py answers itself, because it waits or counts."""
assert ROUTES.keys() | IN_THE_LOOP == {call.name for call in CALLS}
