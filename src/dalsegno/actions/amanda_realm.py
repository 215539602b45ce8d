"""What Amanda needs of volumes on servers: the clone is made on all of them, the dump comes from the nearest."""

from collections.abc import Callable
from contextlib import suppress

from dalsegno.actions.amanda import Fresh, Written, check_replaceable, clone_in_use
from dalsegno.actions.clone import clone
from dalsegno.actions.received import Wanted, receive
from dalsegno.actions.remote import RemoteHouse
from dalsegno.actions.remote_dump import ask_dump, no_dump, servers_that_dump
from dalsegno.dumps.plan import DumpPlan
from dalsegno.terms.errors import Conflict, DalError, Damaged, NotFound, Refused, Unavailable
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
    return Fresh(clone=clone(house, volume, clone_name, scan=False, automatic=True).clone, made=True)


def write(house: RemoteHouse, chosen: DumpPlan, write_bytes: Callable[[bytes], object]) -> Written:
    """Pass on the dump that a server writes; what was passed on cannot be taken back, so it is looked at before."""
    state = house.volumes.known(chosen.note.volume)
    wanted = Wanted(
        volume=chosen.note.volume,
        revision=chosen.target,
        level=chosen.note.level,
        base_dump=chosen.note.base_dump,
    )
    errors: dict[str, DalError] = {}
    for site in servers_that_dump(house, state):
        sent = 0

        def pass_on(data: bytes) -> None:
            nonlocal sent
            write_bytes(data)
            sent += len(data)

        try:
            clone_name = chosen.note.targets[-1].clone
            pieces = ask_dump(site, state, clone=clone_name, level=wanted.level, base=chosen.base)
            found = receive(pieces, pass_on, realm=house.pool.realm, wanted=wanted)
        except (Unavailable, NotFound, Refused, Conflict, Damaged) as error:
            # A server that was away when the clone was made anew has an older one of that name.
            if sent:
                raise
            errors[site.name] = error
            continue
        return Written(dump_id=found.dump_id, size_bytes=found.size_bytes)
    raise no_dump(state, errors)
