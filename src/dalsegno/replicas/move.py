"""Move a volume from one server to another while it is written.

The new server gets everything, then what was written meanwhile, again and again until little is left. For that little
the volume is frozen; then the new server is made a writer, and in the same breath the old one sends its clients there.
Until this last step the original is what it was: whoever moves may die, be stopped, or find the new disk full. What is
on the new server then is no replica; the next run goes on with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from dalsegno.replicas.contract import LEASE_SECONDS, Site
from dalsegno.replicas.follow import Pair, Publish, catch_up, publish_or_later, standby_state
from dalsegno.replicas.peers import Peers, unaware
from dalsegno.replicas.replica_sets import (
    after_move,
    at_least,
    first_set,
    moved,
    newest_set,
    roles,
    with_follower,
    without,
)
from dalsegno.replicas.transfer import NOTHING, Transferred
from dalsegno.terms.errors import AlreadyThere, Moved, NotFound, Refused, Unavailable
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.state import ReplicaSet, VolumeState

ROUND_NS_SMALL: Final = 250_000_000
"""A round that took no longer leaves little enough for the pause."""
ROUNDS_MAX: Final = 12
FROZEN_ROUND_NS_MAX: Final = LEASE_SECONDS * SECOND_NS // 3
"""Rounds that take longer, to the end, say that users write faster than can be moved."""
FLIP_TRIES_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A finished move."""

    replicas: ReplicaSet
    state: VolumeState | None
    """Of the new server's replica; None when an earlier run had moved it and only the rest was done now."""
    rounds: int
    transferred: Transferred
    pause_ns: int
    deaf: tuple[str, ...]
    """Servers, the directory among them, that did not hear of it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """From where to where a volume moves."""

    peers: Peers
    source: Site
    target: Site

    @property
    def pair(self) -> Pair:
        return Pair(volume=self.peers.volume, origin=self.source, to=self.target, context=self.peers.context)

    @property
    def others(self) -> list[str]:
        """The names of the volume's other servers."""
        return [name for name in self.peers.sites if name not in (self.source.name, self.target.name)]


def move(peers: Peers, source: str, target: str, *, publish: Publish) -> Move:
    """Move a volume from `source` to `target`. Done again after it was cut short, it goes on where that one ended."""
    route = _Route(peers=peers, source=peers.site(source), target=peers.site(target))
    volume, context = peers.volume, peers.context
    there = route.source.state(volume)
    if there.replicas is not None and there.replicas.moved_to:
        return _finish(route, there.replicas.moved_to, publish)
    current = _require_writer(route, there, peers.poll(route.others).states, peers.replicas)
    begun = _poll_target(route, there, current)
    # Without a replica set: it takes what is brought, and nobody takes it for a replica.
    here = route.target.create(msgspec.structs.replace(standby_state(there), replicas=None)) if begun is None else begun
    try:
        here, rounds, transferred = _approach(route.pair, here)
        begun_ns = context.clock()
        frozen = route.source.freeze(volume, owner=context.owner)
        here, more = catch_up(route.pair, frozen, here, may_merge=False)
        transferred = transferred + more
        _still_frozen(route, here, too_long=context.clock() - begun_ns > FROZEN_ROUND_NS_MAX)
        current = _require_writer(route, frozen, {}, current)
        # Whoever hears of this half of it knows that the old server has to be caught up with.
        taken_over = moved(at_least(current, here.replicas), source=source, target=target)
        here = route.target.arrange(volume, taken_over)
        replicas = without(taken_over, source)
        _flip(route, replicas)
        pause_ns = context.clock() - begun_ns
    except BaseException:
        peers.thaw([source])
        raise
    final, deaf = _publish(route, replicas, publish)
    return Move(replicas=final, state=here, rounds=rounds, transferred=transferred, pause_ns=pause_ns, deaf=tuple(deaf))


def _require_writer(
    route: _Route, there: VolumeState, others: Mapping[str, VolumeState], known: ReplicaSet | None
) -> ReplicaSet:
    """Return the newest known set, in which the source writes, or has been taken over from by the target."""
    volume, source, target = route.peers.volume, route.source.name, route.target.name
    replicas = newest_set((there, *others.values()), known) or first_set(source)
    if source in replicas.writers or (source in replicas.standbys and target in replicas.writers):
        return replicas
    route.peers.set_replica_set(replicas, [source])
    if source in roles(replicas):
        raise Refused(
            f"{source} is no writer of {volume}: add a replica at the other server and remove this one "
            "(`dal replica add`, `dal replica remove`)"
        )
    raise Refused(f"{source} holds {volume} no longer: `dal replica list {volume}` shows who does")


def _poll_target(route: _Route, there: VolumeState, replicas: ReplicaSet) -> VolumeState | None:
    """Return what an earlier run left at the target, or None; refuse a target that holds a replica."""
    volume, target = route.peers.volume, route.target
    if target.name in roles(replicas) and route.source.name in replicas.writers:
        raise Refused(f"{target.name} holds a replica of {volume} already: `dal replica list {volume}`")
    try:
        begun = target.state(volume)
    except NotFound:
        return None
    if begun.id != there.id:
        raise AlreadyThere(f"{target.name} has another volume {volume!r}: rename one of them first")
    if begun.replicas is not None and begun.replicas.moved_to:
        # It lay there once, and comes back. It is not removed first: a removal that comes late would take all of it.
        begun = target.arrange(volume, with_follower(replicas, begun.replicas, target.name))
    return begun


def _approach(pair: Pair, here: VolumeState) -> tuple[VolumeState, int, Transferred]:
    """Bring what is there, then what was written meanwhile, until little is left; return the rounds it took."""
    clock = pair.context.clock
    transferred = NOTHING
    took_ns = 0
    for rounds in range(1, ROUNDS_MAX + 1):
        begun_ns = clock()
        here, more = catch_up(pair, pair.origin.state(pair.volume), here)
        transferred = transferred + more
        took_ns = clock() - begun_ns
        if took_ns <= ROUND_NS_SMALL:
            return here, rounds, transferred
    if took_ns > FROZEN_ROUND_NS_MAX:
        raise Unavailable(
            f"{pair.volume}: users write faster than it gets to {pair.to.name}: nothing was changed; try at a quieter "
            "time"
        )
    return here, ROUNDS_MAX, transferred


def _still_frozen(route: _Route, here: VolumeState, *, too_long: bool) -> None:
    """Freeze on, so that the lease outlives what comes; refuse when it has ended in between and somebody wrote."""
    volume = route.peers.volume
    if too_long or route.source.freeze(volume, owner=route.peers.context.owner).head != here.head:
        raise Unavailable(
            f"{volume}: what was left took longer than users can be kept waiting: run again, and it goes on from here"
        )


def _flip(route: _Route, replicas: ReplicaSet) -> None:
    """Have the old server send its clients to the new one: from here on the volume is there."""
    volume = route.peers.volume
    sent_away = msgspec.structs.replace(replicas, moved_to=route.target.name)
    for _ in range(FLIP_TRIES_MAX):
        try:
            route.source.arrange(volume, sent_away)
            return
        except Moved:
            return
        except Unavailable:
            continue  # it may have been done: the same again changes nothing
    raise Unavailable(
        f"{volume}: {route.source.name} does not answer just when it should send its clients to {route.target.name}: "
        "whoever can reach it uses it as before; run again when it answers"
    )


def _publish(route: _Route, replicas: ReplicaSet, publish: Publish) -> tuple[ReplicaSet, list[str]]:
    """Tell the directory and the other replicas where the volume is now; return its set and who did not hear of it."""
    source, target = route.source.name, route.target.name
    final, deaf = publish_or_later(
        route.peers, replicas, lambda latest: after_move(latest, replicas, source=source, target=target), publish
    )
    told = [target, *(name for name in route.others if name in roles(final))]
    return final, [*deaf, *unaware(route.peers.set_replica_set(final, told)[1])]


def _finish(route: _Route, moved_to: str, publish: Publish) -> Move:
    """Do what is left of a move that had flipped: the directory and the others may not know yet."""
    volume, source, target = route.peers.volume, route.source, route.target
    if moved_to != target.name:
        raise Moved(f"{volume} is not at {source.name} any more: it moved to {moved_to}", server=moved_to)
    here = target.state(volume)
    replicas = newest_set((source.state(volume), here))
    if replicas is None or target.name not in replicas.writers:
        raise Refused(f"{volume} moved to {target.name} once, which holds it no longer: `dal replica list {volume}`")
    final, deaf = _publish(route, replicas, publish)
    return Move(replicas=final, state=None, rounds=0, transferred=NOTHING, pause_ns=0, deaf=tuple(deaf))
