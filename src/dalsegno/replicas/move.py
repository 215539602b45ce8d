"""Move a volume from one server to another while it is written.

The new server gets everything, then what was written meanwhile, again and again until little is left. For that little
the volume is frozen; then the new server is made a writer, and in the same breath the old one sends its clients there.
Until this last step the original is what it was: whoever moves may die, be stopped, or find the new disk full. What is
on the new server then is no replica; the next run goes on with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from dalsegno.replicas.bring import NOTHING, answers, look, newest_set, roles, spread
from dalsegno.replicas.contract import LEASE_SECONDS, Site
from dalsegno.replicas.follow import DIRECTORY, Merge, catch_up, refuse_to_merge, standby_state, thaw
from dalsegno.replicas.transfer import Transferred
from dalsegno.terms.errors import AlreadyThere, Moved, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.times import SECOND_NS
from dalsegno.volumes.state import ReplicaSet, VolumeState

ROUND_NS_SMALL: Final = 250_000_000
"""A round that took no longer leaves little enough for the pause."""
ROUNDS_MAX: Final = 12
FROZEN_ROUND_NS_MAX: Final = LEASE_SECONDS * SECOND_NS // 3
"""Rounds that take longer, to the end, say that users write faster than can be moved."""
FLIP_TRIES_MAX: Final = 3
STEPS_OF_A_FLIP: Final = 2
"""Versions that a move adds to a replica set: the new server takes over, the old one leaves."""


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


def move(
    volume: str,
    source: Site,
    target: Site,
    others: Sequence[Site],
    *,
    owner: str,
    known: ReplicaSet | None,
    publish: Callable[[Callable[[ReplicaSet], ReplicaSet]], ReplicaSet],
    clock: Callable[[], int],
    merge: Merge,
    report: Report = silent,
) -> Move:
    """Move `volume` from `source` to `target`. Done again after it was cut short, it goes on where that one ended."""
    there = source.state(volume)
    if there.replicas is not None and there.replicas.moved_to:
        return _finish(volume, there.replicas.moved_to, source, target, others, publish=publish, report=report)
    current = _require_writer(volume, source, target, there, answers(look(volume, others)), known)
    begun = _look_at_target(volume, there, target, source, current)
    # Without a replica set: it takes what is brought, and nobody takes it for a replica.
    here = target.create(msgspec.structs.replace(standby_state(there), replicas=None)) if begun is None else begun
    try:
        here, rounds, transferred = _approach(volume, source, target, here, clock=clock, merge=merge, report=report)
        begun_ns = clock()
        frozen = source.freeze(volume, owner=owner)
        here, more = catch_up(volume, frozen, here, origin=source, to=target, merge=refuse_to_merge)
        transferred = transferred + more
        _still_frozen(volume, source, here, owner=owner, too_long=clock() - begun_ns > FROZEN_ROUND_NS_MAX)
        current = _require_writer(volume, source, target, frozen, {}, current)
        # Whoever hears of this half of it knows that the old server has to be caught up with.
        taken_over = moved(_at_least(current, here.replicas), source=source.name, target=target.name)
        here = target.arrange(volume, taken_over)
        replicas = without(taken_over, source.name)
        _flip(volume, source, target, replicas)
        pause_ns = clock() - begun_ns
    except BaseException:
        thaw(volume, [source], owner)
        raise
    final, deaf = _publish(volume, source, target, others, replicas, publish=publish, report=report)
    return Move(replicas=final, state=here, rounds=rounds, transferred=transferred, pause_ns=pause_ns, deaf=tuple(deaf))


def first_set(source: Site) -> ReplicaSet:
    """Return the set of a volume that has no replicas: the server that holds it is the writer."""
    return ReplicaSet(version=1, writers=[source.name])


def moved(replicas: ReplicaSet, *, source: str, target: str) -> ReplicaSet:
    """Return the set in which `target` writes in the place of `source`, which follows."""
    writers = list(dict.fromkeys(target if name == source else name for name in replicas.writers))
    standbys = [name for name in replicas.standbys if name not in (source, target)]
    clones = dict(replicas.clones)
    if source in clones:
        clones[target] = clones[source]
    return msgspec.structs.replace(
        replicas,
        version=replicas.version + 1,
        writers=writers,
        standbys=[*standbys, source],
        clones=clones,
        moved_to="",
    )


def without(replicas: ReplicaSet, name: str) -> ReplicaSet:
    """Return the set without a server that follows."""
    return msgspec.structs.replace(
        replicas,
        version=replicas.version + 1,
        standbys=[each for each in replicas.standbys if each != name],
        clones={each: pattern for each, pattern in replicas.clones.items() if each != name},
    )


def _require_writer(
    volume: str,
    source: Site,
    target: Site,
    there: VolumeState,
    others: Mapping[str, VolumeState],
    known: ReplicaSet | None,
) -> ReplicaSet:
    """Return the newest set that anybody knows, in which `source` writes, or has been taken over from by `target`."""
    replicas = newest_set((there, *others.values()), known) or first_set(source)
    if source.name in replicas.writers or (source.name in replicas.standbys and target.name in replicas.writers):
        return replicas
    spread(volume, replicas, [source])
    if source.name in roles(replicas):
        raise Refused(
            f"{source.name} is no writer of {volume}: add a replica at the other server and remove this one "
            "(`dal replica add`, `dal replica remove`)"
        )
    raise Refused(f"{source.name} holds {volume} no longer: `dal replica list {volume}` shows who does")


def _look_at_target(
    volume: str, there: VolumeState, target: Site, source: Site, replicas: ReplicaSet
) -> VolumeState | None:
    """Return what an earlier run left at the target, or None; refuse a target that holds a replica."""
    if target.name in roles(replicas) and source.name in replicas.writers:
        raise Refused(f"{target.name} holds a replica of {volume} already: `dal replica list {volume}`")
    try:
        begun = target.state(volume)
    except NotFound:
        return None
    if begun.id != there.id:
        raise AlreadyThere(f"{target.name} has another volume {volume!r}: rename one of them first")
    if begun.replicas is not None and begun.replicas.moved_to:
        # It lay there once, and comes back. It is not removed first: a removal that comes late would take all of it.
        begun = target.arrange(volume, _with_follower(replicas, begun.replicas, target.name))
    return begun


def _with_follower(current: ReplicaSet, begun: ReplicaSet, name: str) -> ReplicaSet:
    """Return a set, only for the server `name`, by which it takes what is brought."""
    return msgspec.structs.replace(
        current,
        version=max(current.version, begun.version) + 1,
        writers=[each for each in current.writers if each != name],
        standbys=[*(each for each in current.standbys if each != name), name],
        moved_to="",
    )


def _at_least(replicas: ReplicaSet, begun: ReplicaSet | None) -> ReplicaSet:
    """Return the set with a version no smaller than that of a flip that an earlier run did not finish."""
    version = max(replicas.version, begun.version if begun is not None else 0)
    return msgspec.structs.replace(replicas, version=version)


def _approach(
    volume: str,
    source: Site,
    target: Site,
    here: VolumeState,
    *,
    clock: Callable[[], int],
    merge: Merge,
    report: Report,
) -> tuple[VolumeState, int, Transferred]:
    """Bring what is there, then what was written meanwhile, until little is left; return the rounds it took."""
    transferred = NOTHING
    took_ns = 0
    for rounds in range(1, ROUNDS_MAX + 1):
        begun_ns = clock()
        here, more = catch_up(volume, source.state(volume), here, origin=source, to=target, merge=merge, report=report)
        transferred = transferred + more
        took_ns = clock() - begun_ns
        if took_ns <= ROUND_NS_SMALL:
            return here, rounds, transferred
    if took_ns > FROZEN_ROUND_NS_MAX:
        raise _too_fast(volume, target)
    return here, ROUNDS_MAX, transferred


def _still_frozen(volume: str, source: Site, here: VolumeState, *, owner: str, too_long: bool) -> None:
    """Freeze on, so that the lease outlives what comes; refuse when it has ended in between and somebody wrote."""
    if too_long or source.freeze(volume, owner=owner).head != here.head:
        raise Unavailable(
            f"{volume}: what was left took longer than users can be kept waiting: run again, and it goes on from here"
        )


def _flip(volume: str, source: Site, target: Site, replicas: ReplicaSet) -> None:
    """Have the old server send its clients to the new one: from here on the volume is there."""
    sent_away = msgspec.structs.replace(replicas, moved_to=target.name)
    for _ in range(FLIP_TRIES_MAX):
        try:
            source.arrange(volume, sent_away)
            return
        except Moved:
            return
        except Unavailable:
            continue  # it may have been done: the same again changes nothing
    raise Unavailable(
        f"{volume}: {source.name} does not answer just when it should send its clients to {target.name}: whoever can "
        "reach it uses it as before; run again when it answers"
    )


def _publish(
    volume: str,
    source: Site,
    target: Site,
    others: Sequence[Site],
    replicas: ReplicaSet,
    *,
    publish: Callable[[Callable[[ReplicaSet], ReplicaSet]], ReplicaSet],
    report: Report,
) -> tuple[ReplicaSet, list[str]]:
    """Tell the directory and the other replicas where the volume is now."""

    def change(latest: ReplicaSet) -> ReplicaSet:
        if latest.version <= replicas.version - STEPS_OF_A_FLIP or latest.version == replicas.version:
            return replicas
        # Somebody changed the set at the same time: both changes count.
        if source.name in latest.writers:
            latest = moved(latest, source=source.name, target=target.name)
        if source.name in latest.standbys:
            latest = without(latest, source.name)
        return msgspec.structs.replace(latest, version=max(latest.version, replicas.version + 1))

    deaf = []
    final = replicas
    try:
        final = publish(change)
    except Unavailable as error:
        report(Note(severity="note", path=volume.encode(), text=f"the directory hears of it later: {error}"))
        deaf.append(DIRECTORY)
    deaf += spread(volume, final, [target, *(site for site in others if site.name in roles(final))])
    return final, deaf


def _finish(
    volume: str,
    moved_to: str,
    source: Site,
    target: Site,
    others: Sequence[Site],
    *,
    publish: Callable[[Callable[[ReplicaSet], ReplicaSet]], ReplicaSet],
    report: Report,
) -> Move:
    """Do what is left of a move that had flipped: the directory and the others may not know yet."""
    if moved_to != target.name:
        raise Moved(f"{volume} is not at {source.name} any more: it moved to {moved_to}", server=moved_to)
    here = target.state(volume)
    replicas = newest_set((source.state(volume), here))
    if replicas is None or target.name not in replicas.writers:
        raise Refused(f"{volume} moved to {target.name} once, which holds it no longer: `dal replica list {volume}`")
    final, deaf = _publish(volume, source, target, others, replicas, publish=publish, report=report)
    return Move(replicas=final, state=None, rounds=0, transferred=NOTHING, pause_ns=0, deaf=tuple(deaf))


def _too_fast(volume: str, target: Site) -> Unavailable:
    return Unavailable(
        f"{volume}: users write faster than it gets to {target.name}: nothing was changed; try at a quieter time"
    )
