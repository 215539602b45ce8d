"""Standbys: follow a volume's writer, tell how far behind they are, and make one the writer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from dalsegno.actions.release import change_set, require_set
from dalsegno.replicas.context import Merge
from dalsegno.replicas.contract import Site
from dalsegno.replicas.follow import (
    DISMISSED,
    PROMOTED,
    Lag,
    Promotion,
    begin_anew,
    measure_lag,
    promote,
    standby_state,
)
from dalsegno.replicas.histories import clones_lacking
from dalsegno.replicas.keeper import Keeper
from dalsegno.replicas.peers import Peers, Poll
from dalsegno.replicas.replica_sets import roles, with_standby
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import BadInput, DalError, NoAccess, Refused, Unavailable
from dalsegno.terms.events import Report, silent
from dalsegno.volumes.clones import ClonesForm
from dalsegno.volumes.state import ReplicaSet, VolumeState

MONITOR_SECONDS: Final = 0.25
SERVE_LOCK: Final = "serve"
"""Held in a pool by its server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyStatus:
    """How far one standby is behind."""

    server: str
    origin: str
    """The writer that it was compared with; empty when none answered."""
    lag: Lag | None
    """None when it cannot be told: `error` says why."""
    clones_missing: int = 0
    """Clones of the writer that it keeps and has not yet."""
    error: DalError | None = None


def choose_standby(servers: Servers, replicas: ReplicaSet, volume: str, name: str) -> str:
    """Return the standby that is meant: the one named, this machine's, or the only one."""
    if name:
        return name
    if servers.here in replicas.standbys:
        return servers.here
    if len(replicas.standbys) == 1:
        return replicas.standbys[0]
    known = ", ".join(replicas.standbys) or "it has none yet"
    raise BadInput(f"{volume}: say which standby with --to or --server: {known}")


def make_standby(servers: Servers, volume: str, *, to: str = "", origin: str = "") -> tuple[str, ReplicaSet]:
    """Make a server a standby of a volume, if it is none yet; return its name and the volume's replica set."""
    replicas = require_set(servers, volume)
    name = choose_standby(servers, replicas, volume, to)
    if name in (*replicas.writers, *replicas.readers):
        raise Refused(f"{name} holds {volume} already, as a {'writer' if name in replicas.writers else 'reader'}")
    if origin and origin not in replicas.writers:
        raise Refused(f"{origin} is no writer of {volume}: {', '.join(replicas.writers)} can be followed")
    standby = servers.site(name)
    if name in replicas.standbys:
        return name, replicas
    # Asked first, so that a server that is away, or has another volume of this name, is not in the set for nothing.
    origins = [origin] if origin else replicas.writers
    try:
        there = _first_state(servers, volume, origins)
    except NoAccess:
        if name != servers.here:
            raise
        # This server itself, whom the others show nothing that it does not hold: the directory first.
        change_set(servers, volume, lambda latest: with_standby(latest, name))
        there = _first_state(servers, volume, origins)
    standby.create(msgspec.structs.replace(standby_state(there), replicas=None))
    replicas = change_set(servers, volume, lambda latest: with_standby(latest, name))
    told = [name, *replicas.writers]
    servers.peers(volume, told, servers.context()).set_replica_set(replicas, told)
    return name, replicas


def _first_state(servers: Servers, volume: str, names: Sequence[str]) -> VolumeState:
    failure: DalError = Unavailable(f"{volume}: no writer is known")
    for name in names:
        try:
            return servers.site(name).state(volume)
        except DalError as error:
            failure = error
    raise failure


def keeps_up_by_itself(site: Site) -> bool:
    """Return whether a standby's server runs, and so follows by itself; of others we only see their servers."""
    if not isinstance(site, Keeper):
        return True
    with site.pool.backend.lock(SERVE_LOCK) as lock:
        return not lock.acquire(wait=False)


def writers_to_follow(servers: Servers, volume: str, origin: str = "") -> Callable[[], Sequence[Site]]:
    """Return what finds the writers that a standby may follow: `origin` while that is one, otherwise all."""

    def origins() -> Sequence[Site]:
        known = require_set(servers, volume)
        return [servers.site(each) for each in ([origin] if origin in known.writers else known.writers)]

    return origins


def watch_standby(
    servers: Servers,
    volume: str,
    name: str,
    *,
    ended: Callable[[], bool],
    told: Callable[[StandbyStatus], None],
) -> str:
    """Tell how far a standby is behind, whose server follows by itself, until it is none or `ended`; return why.

    Measuring costs a list of all that it lacks: it is done when something has changed.
    """
    seen: dict[str, tuple[bytes, ClonesForm]] | None = None
    while not ended():
        replicas = require_set(servers, volume)
        if name in replicas.writers:
            return PROMOTED
        if name not in replicas.standbys:
            return DISMISSED
        states = servers.states(volume, [*replicas.writers, name])
        now = {each: (state.head, state.clones.told()) for each, state in states.items()}
        if now != seen:
            status = next(each for each in standby_status(servers, volume, [name]))
            seen = now if status.error is None else None
            told(status)
        if not ended():
            servers.pause(MONITOR_SECONDS)
    return ""


def begin_standby_anew(servers: Servers, volume: str, name: str, *, report: Report = silent) -> None:
    """Make a standby a copy of a writer although it has another past, which is lost."""
    replicas = require_set(servers, volume)
    if name not in replicas.standbys:
        raise Refused(f"{name} is no standby of {volume}: `dal replica list {volume}`")
    begin_anew(volume, servers.site(replicas.writers[0]), servers.site(name), report=report)


def standby_status(servers: Servers, volume: str, only: Sequence[str] = ()) -> list[StandbyStatus]:
    """Tell of every standby, or of those named, how far it is behind a writer that answers."""
    replicas = require_set(servers, volume)
    standbys = [name for name in replicas.standbys if not only or name in only]
    peers = servers.peers(volume, [*replicas.writers, *standbys], servers.context(), replicas)
    polled = peers.poll(peers.sites)
    live = [name for name in replicas.writers if name in polled.states]
    return [_compare_standby(peers, polled, name, live) for name in standbys]


def _compare_standby(peers: Peers, polled: Poll, name: str, live: Sequence[str]) -> StandbyStatus:
    """Compare a standby with that of the `live` writers which has its head, or with any."""
    origin = live[0] if live else ""
    if name in polled.errors or not live:
        error = polled.errors[name] if name in polled.errors else next(iter(polled.errors.values()))
        return StandbyStatus(server=name, origin=origin, lag=None, error=error)
    here = polled.states[name]
    origin = max(live, key=lambda each: polled.states[each].head == here.head)
    there = polled.states[origin]
    patterns = peers.replicas.clones if peers.replicas is not None else {}
    try:
        lag = measure_lag(peers, origin, there, here)
        missing_clones = len(clones_lacking(patterns.get(name), here.clones, of=there.clones))
    except DalError as error:
        return StandbyStatus(server=name, origin=origin, lag=None, error=error)
    return StandbyStatus(server=name, origin=origin, lag=lag, clones_missing=missing_clones)


def promote_standby(
    servers: Servers, volume: str, *, merge: Merge, name: str = "", report: Report = silent
) -> tuple[str, Promotion]:
    """Make a standby the volume's writer; return which, and what was done."""
    replicas = require_set(servers, volume)
    name = choose_standby(servers, replicas, volume, name)
    others = [each for each in sorted(roles(replicas)) if each != name]
    peers = servers.peers(volume, [name, *others], servers.context(merge=merge, report=report), replicas)
    return name, promote(peers, name, publish=lambda change: change_set(servers, volume, change))
