"""Release a state of a volume to its read-only sites, and let a site pull what it missed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dalsegno.replicas.peers import Poll
from dalsegno.replicas.release import Released, SiteOutcome, newest_release, pull, release
from dalsegno.replicas.replica_sets import with_readers
from dalsegno.replicas.servers import Servers
from dalsegno.terms.errors import BadInput, Conflict, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.events import Report, silent
from dalsegno.terms.times import parse_time_ns, show_time
from dalsegno.volumes.address import no_clone, parse_address
from dalsegno.volumes.state import Release, ReplicaSet
from dalsegno.world.workers import Workers

PUBLISH_TRIES_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStatus:
    """What each read-only site of a volume shows."""

    newest: Release | None
    """The release that counts."""
    sites: tuple[tuple[str, Release | None, DalError | None], ...]


def require_set(servers: Servers, volume: str) -> ReplicaSet:
    """Return a volume's replica set, or refuse."""
    replicas = servers.replica_set(volume)
    if replicas is None:
        raise Refused(f"volume {volume!r} is on no server of the realm: `dal replica add {volume} SERVER` first")
    return replicas


def change_set(servers: Servers, volume: str, change: Callable[[ReplicaSet], ReplicaSet]) -> ReplicaSet:
    """Replace a volume's replica set in the directory by `change` of the newest, and return it."""
    for _ in range(PUBLISH_TRIES_MAX):
        latest = require_set(servers, volume)
        replicas = change(latest)
        if replicas == latest:
            return latest
        try:
            servers.publish(volume, replicas)
            return replicas
        except Conflict:
            continue
    raise Conflict(f"{volume}: its replica set changes too fast: try again")


def release_to(
    servers: Servers,
    address: str,
    *,
    to: Sequence[str] = (),
    crew: Workers | None = None,
    report: Report = silent,
) -> tuple[str, Released]:
    """Release what `VOLUME[@CLONE]` names to the servers `to`, or to all read-only sites; return volume and outcome.

    A server in `to` that is no replica of the volume becomes one of its read-only sites.
    """
    parsed = parse_address(address)
    volume = parsed.volume
    if parsed.path:
        raise BadInput(f"{address}: a release shows a whole volume: expected VOLUME[@CLONE]")
    replicas = require_set(servers, volume)
    taken = [name for name in to if name in (*replicas.writers, *replicas.standbys)]
    if taken:
        raise Refused(f"{taken[0]} writes or follows {volume}: a release is for read-only sites")
    readers = list(dict.fromkeys(to or replicas.readers))
    if not readers:
        raise BadInput(f"{volume} has no read-only sites: name the servers with --to")
    context = servers.context(workers=crew, report=report)
    peers = servers.peers(volume, [*replicas.writers, *readers], context)
    clone, revision = find_state(volume, parsed.selector, peers.poll(replicas.writers), now_ns=context.clock())
    if any(name not in replicas.readers for name in to):
        changed = change_set(servers, volume, lambda latest: with_readers(latest, to))
    else:
        changed = replicas
    return volume, release(replace(peers, replicas=changed), revision, clone=clone, to=readers)


def find_state(volume: str, selector: str, polled: Poll, *, now_ns: int) -> tuple[str, bytes]:
    """Return the clone and the revision that `volume@selector` names on the writers that answer."""
    states = list(polled.states.values())
    if not states:
        raise Unavailable(f"{volume}: no writer answers: {next(map(str, polled.errors.values()), 'there is none')}")
    if selector in ("", "latest"):
        heads = {state.head for state in states}
        if len(heads) > 1:
            raise Conflict(f"{volume}: its writers are not at one state: `dal replica resolve {volume}` first")
        head = heads.pop()
        if not head:
            raise Refused(f"volume {volume!r} is empty: there is nothing to release")
        named = (each for state in states for each in state.clones.newest_first() if each[1].revision == head)
        return max(named, key=lambda each: each[1].created_ns, default=("", None))[0], head
    if selector.startswith("#"):
        wanted = selector[1:]
        named_revisions = {clone.revision for state in states for clone in state.clones.values()}
        found = {revision for revision in named_revisions if revision.hex().startswith(wanted)}
        found |= {state.head for state in states if state.head.hex().startswith(wanted)}
        if len(found) == 1 and wanted:
            return selector, found.pop()
        raise NotFound(f"{volume}@{selector}: {'more than one' if found else 'no'} clone has a revision like this")
    clone = next((clone for state in states if (clone := state.clones.get(selector)) is not None), None)
    if clone is not None:
        return selector, clone.revision
    at_ns = parse_time_ns(selector, now_ns=now_ns)
    if at_ns is None:
        raise no_clone(volume, selector)
    older = [each for state in states if (each := state.clones.newest_until(at_ns)) is not None]
    if not older:
        raise NotFound(f"{volume}@{selector}: no clone at or before {show_time(at_ns)}")
    name, clone = max(older, key=lambda each: (each[1].created_ns, each[0]))
    return name, clone.revision


def pull_release(
    servers: Servers,
    volume: str,
    *,
    to: Sequence[str] = (),
    crew: Workers | None = None,
    report: Report = silent,
) -> list[SiteOutcome]:
    """Bring the read-only sites `to`, or all of them, the newest release that anybody knows of."""
    replicas = require_set(servers, volume)
    strange = [name for name in to if name not in replicas.readers]
    if strange:
        raise Refused(f"{strange[0]} is no read-only site of {volume}: release to it first (`dal release --to`)")
    names = list(dict.fromkeys(to or replicas.readers))
    if not names:
        raise BadInput(f"{volume} has no read-only sites: `dal release {volume}@CLONE --to SERVER` makes some")
    context = servers.context(workers=crew, report=report)
    peers = servers.peers(volume, [*replicas.writers, *replicas.readers], context, replicas)
    return [pull(peers, name) for name in names]


def release_status(servers: Servers, volume: str, *, crew: Workers | None = None) -> ReleaseStatus:
    """Ask every read-only site what it shows, and the writers what it should be."""
    replicas = require_set(servers, volume)
    names = [*replicas.writers, *replicas.readers]
    polled = servers.peers(volume, names, servers.context(workers=crew)).poll(names)

    def shown(name: str) -> tuple[str, Release | None, DalError | None]:
        state = polled.states.get(name)
        return name, state.released if state is not None else None, polled.errors.get(name)

    newest = newest_release(polled.states.values())
    return ReleaseStatus(newest=newest, sites=tuple(shown(name) for name in replicas.readers))


def describe_release(release: Release) -> str:
    """Return what a release is called."""
    return f"{release.clone or '#' + release.revision.hex()[:12]} of {show_time(release.released_ns)}"
