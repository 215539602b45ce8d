"""How far standbys are behind, for Prometheus: those that follow this server, and this server where it follows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from dalsegno.formats.prometheus import Family, Labels, render
from dalsegno.pool.contract import Source
from dalsegno.replicas.follow import Step
from dalsegno.terms.errors import DalError
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import between
from dalsegno.volumes.state import VolumeState
from dalsegno.world.clock import now_ns
from dalsegno.world.workers import new_lock

REVISIONS_COUNTED_MAX: Final = 10_000
UNHEARD_NS_MAX: Final = 15 * SECOND_NS
"""A standby hears of its origin more often than this: one that does not lags since it heard last."""


class Followed(Protocol):
    """A Site that knows who follows it."""

    def states(self) -> list[VolumeState]:
        """Return the volumes."""
        ...

    def followers(self, volume: str) -> Mapping[str, tuple[bytes, int]]:
        """Return who follows a volume: what it has, and when it said so."""
        ...


@dataclass(slots=True)
class _Following:
    origin: str = ""
    lag_ns: int = 0
    heard_ns: int = 0
    objects: int = 0
    bytes_crossed: int = 0


class Lags:
    """What is known of standbys. Threads may share it."""

    def __init__(self, site: Followed, source: Source) -> None:
        self._site = site
        self._source = source
        self._lock = new_lock()
        self._following: dict[str, _Following] = {}

    def stepped(self, volume: str, step: Step) -> None:
        """Note what one step of this server's own following did."""
        with self._lock:
            known = self._following.setdefault(volume, _Following())
            known.origin = step.origin
            known.lag_ns = step.lag_ns
            known.heard_ns = now_ns()
            known.objects += step.transferred.objects
            known.bytes_crossed += step.transferred.bytes_crossed

    def rows(self, covers: Callable[[str], bool]) -> list[str]:
        """Return the lines about the volumes that the asking token covers."""
        now = now_ns()
        with self._lock:
            following = [
                ({"volume": volume, "origin": known.origin}, known)
                for volume, known in self._following.items()
                if covers(volume)
            ]
            lags = [(labels, _lag(known, now)) for labels, known in following]
            objects = [(labels, known.objects) for labels, known in following]
            crossed = [(labels, known.bytes_crossed) for labels, known in following]
        behind = [row for state in self._site.states() if covers(state.name) for row in self._behind(state, now)]
        families = [
            Family("dalsegno_follow_lag_seconds", "How far this standby is behind its origin.", lags),
            Family("dalsegno_follow_objects_total", "Objects that came by following.", objects, "counter"),
            Family("dalsegno_follow_bytes_total", "Bytes that crossed the network by following.", crossed, "counter"),
        ]
        for position, (name, what) in enumerate(
            (
                ("follower_lag_revisions", "Revisions that a standby has not heard to have."),
                ("follower_lag_seconds", "Age of the oldest of them."),
                ("follower_unheard_seconds", "Since the standby was heard of."),
            )
        ):
            families.append(Family(f"dalsegno_{name}", what, [(labels, row[position]) for labels, row in behind]))
        return render(family for family in families if family.samples)

    def _behind(self, state: VolumeState, now: int) -> Iterator[tuple[Labels, tuple[float, float, float]]]:
        for follower, (revision, seen_ns) in self._site.followers(state.name).items():
            labels = {"volume": state.name, "follower": follower}
            count, oldest_ns = 0, now
            try:
                if state.head and revision != state.head:
                    new = between(self._source, state.head, [revision] if revision else [])
                    for identity in islice(new, REVISIONS_COUNTED_MAX):
                        count += 1
                        oldest_ns = min(oldest_ns, read_revision(self._source, ObjectId(identity)).created_ns)
            except DalError:
                continue  # of a standby with another past nobody can say how far it is behind
            yield labels, (count, max(0, now - oldest_ns) / SECOND_NS, max(0, now - seen_ns) / SECOND_NS)


def _lag(known: _Following, now: int) -> float:
    unheard = now - known.heard_ns
    return (unheard if unheard > UNHEARD_NS_MAX else known.lag_ns) / SECOND_NS
