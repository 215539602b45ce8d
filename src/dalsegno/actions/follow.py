"""Standbys: follow a volume's writer, tell how far behind they are, and make one the writer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from dalsegno.actions.release import change_set, require_set
from dalsegno.replicas.bring import answers, look, roles, spread
from dalsegno.replicas.contract import Site
from dalsegno.replicas.follow import WATCH_SECONDS, Lag, Promotion, Step, begin_anew, follow, measure_lag, promote
from dalsegno.replicas.heads import Merge as MergeHeads
from dalsegno.replicas.meet import meeting
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import BadInput, DalError, Refused
from dalsegno.terms.events import Report, silent
from dalsegno.volumes.state import ReplicaSet
from dalsegno.world.chance import random_bytes
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyStatus:
    """How far one standby is behind."""

    server: str
    origin: str
    """The writer that it was compared with; empty when none answered."""
    lag: Lag | None
    """None when it cannot be told: `error` says why."""
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


def with_standby(replicas: ReplicaSet, name: str) -> ReplicaSet:
    """Return the set with this server as a standby, too."""
    if name in replicas.standbys:
        return replicas
    return msgspec.structs.replace(replicas, version=replicas.version + 1, standbys=[*replicas.standbys, name])


def follow_volume(
    servers: Servers,
    volume: str,
    *,
    merge: MergeHeads,
    origin: str = "",
    to: str = "",
    anew: bool = False,
    once: bool = False,
    ended: Callable[[], bool],
    stepped: Callable[[Step], None] = lambda step: None,
    report: Report = silent,
) -> tuple[str, str]:
    """Keep a standby of a volume until `ended`, or until it is none any more; return its server, and why it ended.

    A server that is no replica of the volume yet becomes a standby. Without `origin` any writer that answers will do.
    """
    replicas = require_set(servers, volume)
    name = choose_standby(servers, replicas, volume, to)
    if name in (*replicas.writers, *replicas.readers):
        raise Refused(f"{name} holds {volume} already, as a {'writer' if name in replicas.writers else 'reader'}")
    if origin and origin not in replicas.writers:
        raise Refused(f"{origin} is no writer of {volume}: {', '.join(replicas.writers)} can be followed")
    if name not in replicas.standbys:
        replicas = change_set(servers, volume, lambda latest: with_standby(latest, name))
        spread(volume, replicas, [servers.site(each) for each in replicas.writers])
    standby = servers.site(name)

    def origins() -> Sequence[Site]:
        known = servers.replica_set(volume) or replicas
        names = [origin] if origin in known.writers else known.writers
        return [servers.site(each) for each in names]

    if anew:
        begin_anew(volume, origins()[0], standby, report=report)
    reason = follow(
        volume,
        standby,
        origins,
        clock=now_ns,
        pause=servers.pause,
        chance=lambda: int.from_bytes(random_bytes(4)) / 2**32,
        merge=meeting(servers.realm, merge, report=report),
        ended=ended,
        stepped=stepped,
        report=report,
        seconds=0.0 if once else WATCH_SECONDS,
    )
    return name, reason


def standby_status(servers: Servers, volume: str) -> list[StandbyStatus]:
    """Tell of every standby how far it is behind a writer that answers."""
    replicas = require_set(servers, volume)
    sites = [servers.site(name) for name in (*replicas.writers, *replicas.standbys)]
    looked = look(volume, sites)
    states = answers(looked)
    by_name = {site.name: site for site in sites}
    live = [name for name in replicas.writers if name in states]
    found = []
    for name in replicas.standbys:
        here = looked[name]
        missing = here if isinstance(here, DalError) else None
        if missing is None and not live:
            missing = next(error for error in looked.values() if isinstance(error, DalError))
        if missing is not None or isinstance(here, DalError):
            found.append(StandbyStatus(server=name, origin=live[0] if live else "", lag=None, error=missing))
            continue
        origin = max(live, key=lambda each: states[each].head == here.head)
        try:
            lag = measure_lag(volume, by_name[origin], states[origin], here, realm=servers.realm, now_ns=now_ns())
            found.append(StandbyStatus(server=name, origin=origin, lag=lag))
        except DalError as error:
            found.append(StandbyStatus(server=name, origin=origin, lag=None, error=error))
    return found


def promote_standby(
    servers: Servers, volume: str, *, merge: MergeHeads, name: str = "", report: Report = silent
) -> tuple[str, Promotion]:
    """Make a standby the volume's writer; return which, and what was done."""
    replicas = require_set(servers, volume)
    name = choose_standby(servers, replicas, volume, name)
    others = [servers.site(each) for each in sorted(roles(replicas)) if each != name]
    done = promote(
        volume,
        servers.site(name),
        others,
        owner=servers.owner,
        known=replicas,
        publish=lambda change: change_set(servers, volume, change),
        clock=now_ns,
        merge=meeting(servers.realm, merge, report=report),
        report=report,
    )
    return name, done
