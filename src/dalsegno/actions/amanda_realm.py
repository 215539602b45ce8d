"""What Amanda needs of volumes on servers: the clone is made on all of them, the dump comes from the nearest."""

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO

from dalsegno.actions.amanda import Fresh, Written, check_replaceable, clone_in_use
from dalsegno.actions.clone import clone
from dalsegno.actions.remote import RemoteHouse
from dalsegno.actions.remote_dump import ask_dump, no_dump, servers_that_dump
from dalsegno.chunks.realm import Realm
from dalsegno.dumps.plan import DumpPlan
from dalsegno.pool.pack_read import open_note, read_opener
from dalsegno.terms.errors import Conflict, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.state import READER, STANDBY, VolumeState
from dalsegno.world.clock import now_ns


def state_now(house: RemoteHouse, volume: str, *, to_dump: bool = True) -> VolumeState:
    """Return a volume as its writers have it now; Unavailable when none of them answers: never what was seen last.

    NoAccess when it is `to_dump` and the token may not do what that needs.
    """
    state = house.volumes.get(volume)
    if state.role in (READER, STANDBY):
        raise Refused(f"{volume}: a {state.role}, and clones are made elsewhere: name the realm, not the server")
    state = house.realm_volumes.bring_together(state.name).state
    for site in servers_that_dump(house, state) if to_dump else ():
        with suppress(Unavailable):
            site.thaw(state.name, owner=house.realm_volumes.servers.owner)  # we froze nothing: this only asks
    return state


def fresh_clone(house: RemoteHouse, volume: str, clone_name: str, *, age_seconds: int) -> Fresh:
    """Return a clone that is young enough: the one that is there, or a new one in its place on all servers."""
    state = state_now(house, volume)
    now = now_ns()
    found = clone_in_use(state, clone_name, age_seconds=age_seconds, now_ns=now)
    if found is not None:
        return Fresh(clone=found, made=False)
    check_replaceable(state, clone_name, owner="", now_ns=now)
    if clone_name in state.clones:
        house.volumes.unclone(volume, clone_name)
    # A volume that follows a directory of its server is as that server took it in last.
    return Fresh(clone=clone(house, volume, clone_name, scan=False).clone, made=True)


def write(house: RemoteHouse, chosen: DumpPlan, write_bytes: Callable[[bytes], object]) -> Written:
    """Pass on the dump that a server writes; what was passed on cannot be taken back, so it is looked at before."""
    state = house.volumes.known(chosen.note.volume)
    errors: dict[str, DalError] = {}
    for site in servers_that_dump(house, state):
        dump_id, size = b"", 0
        try:
            clone_name = chosen.note.targets[-1].clone
            for piece in ask_dump(site, state, clone=clone_name, level=chosen.note.level, base=chosen.base):
                dump_id = dump_id or _identify(piece, chosen, house.pool.realm)
                write_bytes(piece)
                size += len(piece)
        except (Unavailable, NotFound, Refused, Conflict) as error:
            if size:
                raise
            errors[site.name] = error
            continue
        return Written(dump_id=dump_id, size_bytes=size)
    raise no_dump(state, errors)


def _identify(piece: bytes, chosen: DumpPlan, realm: Realm) -> bytes:
    """Return the id of the dump that begins so; Conflict when it is not the one that was chosen.

    A server that was away when the clone was made anew has an older one of that name.
    """
    opener, _ = read_opener(BytesIO(piece).read, realm)
    note = open_note(opener.header, realm)
    wanted = chosen.note
    if (note.volume, note.level, note.targets[-1].revision, note.base_dump) != (
        *(wanted.volume, wanted.level),
        *(chosen.target, wanted.base_dump),
    ):
        raise Conflict(f"it sent revision {hex_short(note.targets[-1].revision)}, not {hex_short(chosen.target)}")
    return opener.header.pack_id
