"""The servers of a replicated volume: who answers, with what, and what the newest replica set is."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dalsegno.replicas.contract import Site
from dalsegno.replicas.heads import newest_heads
from dalsegno.replicas.peers import Peers, Poll
from dalsegno.replicas.replica_sets import newest_set, set_version, writers_needed
from dalsegno.replicas.sources import SitesSource
from dalsegno.terms.errors import DalError, NotFound, Refused, Unavailable
from dalsegno.volumes.state import WRITER, ReplicaSet, VolumeState

T = TypeVar("T")
States = Mapping[str, VolumeState]
"""Server: its state of a volume."""
Compare = Callable[[States, Callable[[], States]], States]
"""Compare states with what was seen before, and return them, or what asking again brought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterPoll(Poll):
    """What the writers of a volume answered."""

    replicas: ReplicaSet

    @property
    def needed(self) -> int:
        """How many writers must have a commit before it is acknowledged."""
        return writers_needed(self.replicas)


def list_errors(errors: Mapping[str, DalError]) -> str:
    """Return who is missing and why, in one line."""
    return "; ".join(
        text if text.startswith((f"{name}:", f"{name} (")) else f"{name}: {text}"
        for name, text in sorted((name, str(error)) for name, error in errors.items())
    )


def shared_kind(errors: Mapping[str, DalError]) -> type[DalError]:
    """Return the kind that all errors are of; Unavailable when they differ, or there is none."""
    kinds = {type(error) for error in errors.values()}
    return kinds.pop() if len(kinds) == 1 else Unavailable


class Writers:
    """The servers of one volume as one client reaches them; what they said last is only kept to save questions."""

    def __init__(
        self,
        peers: Peers,
        *,
        local: Site | None = None,
        volume_id: bytes = b"",
        publish: Callable[[ReplicaSet], None] = lambda replicas: None,
        compare: Compare = lambda states, again: states,
    ) -> None:
        """See a volume through `peers`; this client's own commits are at `local`, which is only read.

        `publish` tells the realm of a new replica set before any server hears of it, and raises when somebody else was
        first. `compare` sees what servers showed before anything is done with it.
        """
        self.peers = peers
        self.volume = peers.volume
        self.context = peers.context
        self.local = local
        self.replicas = peers.replicas
        self.volume_id = volume_id
        self.publish = publish
        self.compare = compare
        self.last: WriterPoll | None = None

    def site(self, name: str) -> Site:
        """Return a server by name; Unavailable when it has no known address."""
        return self.peers.site(name)

    def each(self, names: Iterable[str], call: Callable[[Site], T]) -> tuple[dict[str, T], dict[str, DalError]]:
        """Call several servers at once; return what each answered, and each server's error."""
        return self.peers.each(names, call)

    def poll(self, *, changes: bool = True) -> WriterPoll:
        """Ask all writers for their state. Those with an older replica set are told the newest.

        Without `arrange` nothing is changed anywhere.
        """
        known = self.replicas
        states: dict[str, VolumeState] = {}
        errors: dict[str, DalError] = {}
        waiting = set(known.writers if known is not None else self.peers.sites)
        others_asked = known is None
        while waiting:
            asked = sorted(waiting)
            polled = self.peers.poll(asked)
            states.update(polled.states)
            errors.update(polled.errors)
            known = self._newest_set(states.values(), known)
            answered = sum(name in states for name in known.writers)
            waiting = set(known.writers)
            if answered < writers_needed(known) and not others_asked:
                # The writers may be others by now: who else holds the volume knows.
                others_asked = True
                waiting |= set(self.peers.sites)
            waiting -= states.keys() | errors.keys()
        assert known is not None
        self.replicas = known
        self._refuse_foreign(states, errors)
        there = sorted(states)
        states = dict(self.compare(states, lambda: self.peers.poll(there).states))
        if changes:
            self._create_absent(known, states, errors)
        stale = [name for name, state in states.items() if state.replicas is None or set_version(state) < known.version]
        if stale and known.version and changes:
            arranged, deaf = self.peers.set_replica_set(known, sorted(stale))
            states.update(arranged)
            for name, error in deaf.items():
                errors[name] = error
                del states[name]
        writers = set(known.writers)
        self.last = WriterPoll(
            replicas=known,
            states={name: states[name] for name in sorted(writers & states.keys())},
            errors={name: errors[name] for name in sorted(writers & errors.keys())},
        )
        return self.last

    def _newest_set(self, states: Iterable[VolumeState], known: ReplicaSet | None) -> ReplicaSet:
        newest = newest_set(states, known)
        return newest if newest is not None else ReplicaSet(version=0, writers=sorted(self.peers.sites))

    def _refuse_foreign(self, states: dict[str, VolumeState], errors: dict[str, DalError]) -> None:
        """Put aside servers on which the volume's name means another volume."""
        right = self.volume_id
        if not right and states:
            right = max(states.values(), key=lambda state: (set_version(state), state.created_ns, state.id)).id
        for name in [name for name, state in states.items() if state.id != right]:
            del states[name]
            errors[name] = Refused(
                f"{name}: its volume {self.volume!r} is another one, not a replica: rename or remove it there"
            )

    def _create_absent(self, replicas: ReplicaSet, states: dict[str, VolumeState], errors: dict[str, DalError]) -> None:
        """Make the empty volume at writers that answer and have none: they were replaced, or have just been added."""
        absent = sorted(name for name in replicas.writers if isinstance(errors.get(name), NotFound))
        if not absent or not states or not replicas.version:
            return
        empty = empty_state(next(iter(states.values())), replicas=replicas, role=WRITER)
        made, failed = self.each(absent, lambda site: site.create(empty))
        for name, state in made.items():
            states[name] = state
            del errors[name]
        errors.update(failed)

    def require_some(self, polled: WriterPoll, failed: Mapping[str, DalError]) -> None:
        """Raise what all writers answered when none is left to work with."""
        if not polled.states.keys() - failed.keys():
            errors = {**polled.errors, **failed}
            kind = shared_kind(errors)
            if kind is not Unavailable:
                raise kind(list_errors(errors))
            raise Unavailable(f"volume {self.volume!r}: no writer answers: {list_errors(errors)}")

    def source(self, names: Iterable[str]) -> SitesSource:
        """Return a Source that reads from whichever of these servers has an object, this client's own pool first."""
        sites = [self.site(name) for name in sorted(names)]
        return SitesSource(self.volume, [*([self.local] if self.local is not None else []), *sites], self.context.realm)

    def newest(self, polled: WriterPoll) -> list[bytes]:
        """Return the heads of those that answered which lie behind none of the others."""
        source = self.source(polled.states)
        source.load_more = lambda: self.load_revisions(source, polled.states)
        return newest_heads(source, polled.heads - {b""})

    def require_rule(self, polled: WriterPoll) -> None:
        """Refuse to begin what fewer writers would do than the volume's rule asks for."""
        if len(polled.states) < polled.needed:
            raise Unavailable(
                f"volume {self.volume!r}: {len(polled.states)} of {len(polled.replicas.writers)} writers answer, "
                f"{polled.replicas.rule!r} asks for {polled.needed}: {list_errors(polled.errors)}"
            )

    def load_revisions(self, source: SitesSource, states: Mapping[str, VolumeState]) -> None:
        """Fetch at once what lies between the heads and what all writers have in common."""
        for name, state in states.items():
            try:
                source.load_revisions(self.site(name), state)
            except (Unavailable, NotFound):
                continue  # what could not be fetched at once is asked for one by one

    def set_replica_set(self, replicas: ReplicaSet, *, also: Iterable[str] = ()) -> dict[str, DalError]:
        """Make `replicas` the volume's replica set on all its servers; return those that did not hear it.

        They find out from the others: the larger version counts.
        """
        writers_needed(replicas)
        self.publish(replicas)
        self.replicas, self.last = replicas, None
        names = {*replicas.writers, *replicas.readers, *replicas.standbys, *also} & self.peers.sites.keys()
        _, errors = self.peers.set_replica_set(replicas, sorted(names))
        if not set(replicas.writers) - errors.keys():
            return errors
        if set(replicas.writers) <= errors.keys():
            raise Unavailable(f"volume {self.volume!r}: no writer heard of its new replica set: {list_errors(errors)}")
        return errors


def empty_state(state: VolumeState, *, replicas: ReplicaSet | None, role: str) -> VolumeState:
    """Return the same volume as one more replica begins: with nothing in it."""
    return VolumeState(
        id=state.id,
        name=state.name,
        kind=state.kind,
        source=state.source,
        created_ns=state.created_ns,
        settings=state.settings,
        role=role,
        replicas=replicas,
    )
