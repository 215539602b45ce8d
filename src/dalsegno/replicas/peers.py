"""The servers of one volume, asked or told something several at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.contract import Site
from dalsegno.terms.errors import DalError, NotFound, Unavailable
from dalsegno.volumes.clones import ClonesOfAll
from dalsegno.volumes.state import ReplicaSet, VolumeState

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """What servers answered when they were asked for their state of a volume."""

    states: dict[str, VolumeState]
    """Servers that answered."""
    errors: dict[str, DalError]
    """Servers that did not, and why."""

    def require(self, name: str) -> VolumeState:
        """Return the state of one server; raise what it answered when that is an error."""
        if name in self.errors:
            raise self.errors[name]
        return self.states[name]

    @property
    def clone_names(self) -> ClonesOfAll:
        """The names of the clones that any of those that answered has."""
        return ClonesOfAll([state.clones for state in self.states.values()])

    @property
    def heads(self) -> set[bytes]:
        """The heads of those that answered."""
        return {state.head for state in self.states.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """One volume, servers by name, the newest replica set that is known, and the context to work in."""

    volume: str
    sites: Mapping[str, Site]
    context: ReplicaContext
    replicas: ReplicaSet | None = None

    def site(self, name: str) -> Site:
        """Return a server by name; Unavailable when it has no known address."""
        site = self.sites.get(name)
        if site is None:
            raise Unavailable(f"{name}: no address known for this server")
        return site

    def each(self, names: Iterable[str], call: Callable[[Site], T]) -> tuple[dict[str, T], dict[str, DalError]]:
        """Call several servers at once; return what each answered, and each server's error."""
        results: dict[str, T] = {}
        errors: dict[str, DalError] = {}

        def step(name: str) -> Callable[[], None]:
            def run() -> None:
                try:
                    results[name] = call(self.site(name))
                except DalError as error:
                    errors[name] = error

            return run

        self.context.parallel([step(name) for name in names])
        return results, errors

    def poll(self, names: Iterable[str]) -> Poll:
        """Ask servers for their state of the volume. Nothing is changed anywhere."""
        asked = list(names)
        states, errors = self.each(asked, lambda site: site.state(self.volume))
        # In the order of the question, whichever answered first.
        return Poll(
            states={name: states[name] for name in asked if name in states},
            errors={name: errors[name] for name in asked if name in errors},
        )

    def thaw(self, names: Iterable[str]) -> None:
        """End this owner's lease on servers, as far as they answer; the others' leases end by themselves."""
        self.each(names, lambda site: site.thaw(self.volume, owner=self.context.owner))

    def set_replica_set(
        self, replicas: ReplicaSet, names: Iterable[str]
    ) -> tuple[dict[str, VolumeState], dict[str, DalError]]:
        """Give servers the volume's replica set; return their states then, and the errors of the others.

        Those find out from the others: the larger version counts.
        """
        return self.each(names, lambda site: site.arrange(self.volume, replicas))


def unaware(errors: Mapping[str, DalError]) -> list[str]:
    """Return which servers did not take a replica set. One that has nothing of the volume gets the set with it."""
    return [name for name, error in errors.items() if not isinstance(error, NotFound)]
