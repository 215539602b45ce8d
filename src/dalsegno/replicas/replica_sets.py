"""What a volume's replica set becomes when servers get other roles, and which of several sets is valid: decided here.

Nothing here asks a server or changes anything. A larger version is valid over a smaller one, wherever it is found.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dalsegno.terms.errors import BadInput
from dalsegno.volumes.state import ANY, MAJORITY, ReplicaSet, VolumeState

STEPS_OF_A_FLIP: Final = 2
"""Versions that a move adds to a replica set: the new server takes over, the old one leaves."""


def newest_set(states: Iterable[VolumeState], known: ReplicaSet | None = None) -> ReplicaSet | None:
    """Return the replica set with the largest version, wherever it stands, as those have it that hold the volume."""
    sets = [state.replicas for state in states if state.replicas is not None]
    if known is not None:
        sets.append(known)
    newest = max(sets, key=lambda each: each.version, default=None)
    return msgspec.structs.replace(newest, moved_to="") if newest is not None else None


def newer(latest: ReplicaSet, known: ReplicaSet) -> ReplicaSet:
    """Return the one of the larger version; `latest` of two with the same."""
    return max(latest, known, key=lambda each: each.version)


def roles(replicas: ReplicaSet) -> set[str]:
    """Return the names of all servers of a replica set."""
    return {*replicas.writers, *replicas.standbys, *replicas.readers}


def set_version(state: VolumeState) -> int:
    """Return the version of the replica set that a server has; 0 without one."""
    return state.replicas.version if state.replicas is not None else 0


def writers_needed(replicas: ReplicaSet) -> int:
    """Return how many writers the rule of a replica set asks for; BadInput for a rule that is none."""
    if replicas.rule not in (ANY, MAJORITY):
        raise BadInput(f"rule {replicas.rule!r}: expected {ANY} or {MAJORITY}")
    return 1 if replicas.rule == ANY else len(replicas.writers) // 2 + 1


def settle_claims(sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """Return the replica set with the largest version, or None without any.

    Several with that version were made by people who did not see one another: two standbys that were promoted while
    the directory was away, say. One of them is chosen, the same one by whoever sees the same, and gets a version of
    its own, so that it counts from now on; what writers took that are none any more is merged when they follow.
    """
    bare = [msgspec.structs.replace(each, moved_to="") for each in sets]
    version = max((each.version for each in bare), default=0)
    claims = [each for each in bare if each.version == version]
    if not claims:
        return None
    chosen = max(claims, key=lambda each: msgspec.json.encode(each, order="deterministic"))
    if all(each == chosen for each in claims):
        return chosen
    return msgspec.structs.replace(chosen, version=version + 1)


def with_standby(replicas: ReplicaSet, name: str) -> ReplicaSet:
    """Return the set with this server as a standby, too."""
    if name in replicas.standbys:
        return replicas
    return msgspec.structs.replace(replicas, version=replicas.version + 1, standbys=[*replicas.standbys, name])


def with_readers(replicas: ReplicaSet, names: Iterable[str]) -> ReplicaSet:
    """Return the set with these servers as read-only sites, too."""
    readers = list(dict.fromkeys([*replicas.readers, *names]))
    if readers == replicas.readers:
        return replicas
    return msgspec.structs.replace(replicas, version=replicas.version + 1, readers=readers)


def promoted(replicas: ReplicaSet, name: str) -> ReplicaSet:
    """Return the set in which `name` is the writer and former writers are standbys."""
    if replicas.writers == [name]:
        return replicas
    standbys = [each for each in (*replicas.standbys, *replicas.writers) if each != name]
    return msgspec.structs.replace(replicas, version=replicas.version + 1, writers=[name], standbys=standbys)


def first_set(source: str) -> ReplicaSet:
    """Return the set of a volume that has no replicas: the server that holds it is the writer."""
    return ReplicaSet(version=1, writers=[source])


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


def with_follower(current: ReplicaSet, begun: ReplicaSet, name: str) -> ReplicaSet:
    """Return a set, only for the server `name`, by which it takes what is brought."""
    return msgspec.structs.replace(
        current,
        version=max(current.version, begun.version) + 1,
        writers=[each for each in current.writers if each != name],
        standbys=[*(each for each in current.standbys if each != name), name],
        moved_to="",
    )


def at_least(replicas: ReplicaSet, begun: ReplicaSet | None) -> ReplicaSet:
    """Return the set with a version no smaller than that of a flip that an earlier run did not finish."""
    version = max(replicas.version, begun.version if begun is not None else 0)
    return msgspec.structs.replace(replicas, version=version)


def after_move(latest: ReplicaSet, replicas: ReplicaSet, *, source: str, target: str) -> ReplicaSet:
    """Return what `latest` in the directory becomes when a move that was planned before it ends with `replicas`."""
    if latest.version <= replicas.version - STEPS_OF_A_FLIP or latest == replicas:
        return replicas
    # Somebody changed the set at the same time: both changes count.
    if source in latest.writers:
        latest = moved(latest, source=source, target=target)
    if source in latest.standbys:
        latest = without(latest, source)
    return msgspec.structs.replace(latest, version=max(latest.version, replicas.version + 1))
