"""Release: show one revision on the read-only sites of a volume, each of which switches in one step.

A release is first noted on the writers that have its revision: from then on it is *the* release, whatever happens to
who made it, and every site can catch up on its own. Then each site gets what it lacks while it goes on showing what it
showed, and switches. Sites do not wait for each other: one that is down fails alone, and the next release, or its own
pull, brings it the newest. What counts is the number, so releasing an older clone again is a release like any other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dalsegno.replicas.clones import own_bases
from dalsegno.replicas.contract import Site
from dalsegno.replicas.peers import Peers, Poll
from dalsegno.replicas.replica_sets import newest_set
from dalsegno.replicas.transfer import NOTHING, Transferred, bring
from dalsegno.terms.errors import Conflict, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import show_time
from dalsegno.volumes.state import READER, Release, ReplicaSet, VolumeState

NUMBER_NS: Final = 1_000_000
"""A release's number is its time in these steps, or one more than the largest that was seen."""

# What became of a release on a site.
RELEASED: Final = "released"
ALREADY: Final = "already"
"""It showed this release before."""
NEWER: Final = "newer"
"""It shows a newer release, made meanwhile."""
FAILED: Final = "failed"
"""It shows what it showed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOutcome:
    """What became of a release on one read-only site."""

    site: str
    outcome: str
    shows: Release | None = None
    """What it shows now, as far as is known."""
    transferred: Transferred = NOTHING
    error: DalError | None = None
    duration_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A release, on which writers it is noted, and what became of it on each site."""

    release: Release
    noted: tuple[str, ...]
    outcomes: tuple[SiteOutcome, ...]

    @property
    def failed(self) -> tuple[SiteOutcome, ...]:
        """The sites that still show what they showed before."""
        return tuple(outcome for outcome in self.outcomes if outcome.outcome == FAILED)


def release(peers: Peers, revision: bytes, *, clone: str, to: Sequence[str]) -> Released:
    """Release `revision`, known as `clone`, to the read-only sites `to`; the replica set is that of `peers`.

    Unavailable when no writer answers, NotFound when none that does has the revision whole: then nothing changed.
    What goes wrong on a read-only site is in its outcome.
    """
    volume, replicas = peers.volume, peers.replicas
    assert replicas is not None
    polled = peers.poll([*replicas.writers, *to])
    sources = _holders(volume, revision, [peers.site(name) for name in replicas.writers if name in polled.states])
    if not sources:
        raise _nowhere(peers, clone, revision, polled)
    wanted = next_release(polled.states.values(), revision=revision, clone=clone, now_ns=peers.context.clock())
    noted = _note(volume, wanted, sources)
    shown = _Showing(peers=peers, release=wanted, origin=polled.states[sources[0].name], sources=sources)
    done, errors = peers.each(to, lambda site: _bring_up(shown, polled, site))
    done |= {name: SiteOutcome(site=name, outcome=FAILED, error=error) for name, error in errors.items()}
    return Released(release=wanted, noted=noted, outcomes=tuple(done[name] for name in to))


def pull(peers: Peers, reader: str) -> SiteOutcome:
    """Bring one read-only site the newest release that anybody knows of; other read-only sites are asked, too.

    NotFound when nothing was ever released; Unavailable when no other server answers.
    """
    volume = peers.volume
    others = [name for name in peers.sites if name != reader]
    polled = peers.poll(others)
    if not polled.states:
        raise Unavailable(f"{volume}: none of {_names(others)} answers: {_first_error(polled)}")
    known = newest_release(polled.states.values())
    if known is None:
        raise NotFound(f"{volume}: nothing was released yet: `dal release {volume}@CLONE --to {reader}`")
    sources = _holders(volume, known.revision, [peers.site(name) for name in polled.states])
    replicas = newest_set(polled.states.values())
    if not sources or replicas is None:
        raise Unavailable(f"{volume}: no server that answers has the release of {show_time(known.released_ns)} whole")
    origin = next(iter(polled.states.values()))
    shown = _Showing(peers=replace(peers, replicas=replicas), release=known, origin=origin, sources=sources)
    return _bring_up(shown, peers.poll([reader]), peers.site(reader))


def next_release(states: Iterable[VolumeState], *, revision: bytes, clone: str, now_ns: int) -> Release:
    """Return a release that counts more than all that are known."""
    known = newest_release(states)
    number = max(now_ns // NUMBER_NS, known.number + 1 if known is not None else 1)
    return Release(number=number, revision=revision, clone=clone, released_ns=now_ns)


def newest_release(states: Iterable[VolumeState]) -> Release | None:
    """Return the release that counts: of the largest number."""
    known = [state.released for state in states if state.released is not None]
    return max(known, key=rank, default=None)


def rank(release: Release) -> tuple[int, bytes]:
    """Return by what releases are compared: two of one number, made apart, end alike everywhere."""
    return release.number, release.revision


def _holders(volume: str, revision: bytes, sites: Iterable[Site]) -> list[Site]:
    """Return the sites that have a revision whole."""
    found = []
    for site in sites:
        try:
            if site.have(volume, revision) == b"\1":
                found.append(site)
        except DalError:
            continue  # as one that does not have it: whoever asked says what came of it
    return found


def _note(volume: str, wanted: Release, sources: Sequence[Site]) -> tuple[str, ...]:
    """Note a release on writers. At least one must take it, or it would be nobody's."""
    noted, failure = [], None
    for source in sources:
        try:
            released = source.switch(volume, wanted).released
        except Unavailable as error:
            failure = error
            continue
        if released is not None and rank(released) > rank(wanted):
            raise Conflict(
                f"{volume}: {released.clone or hex_short(released.revision)} was released by somebody else at the same "
                "time: look what it shows, and run again"
            )
        noted.append(source.name)
    if not noted:
        assert failure is not None
        raise failure
    return tuple(noted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Showing:
    """A release on its way to read-only sites."""

    peers: Peers
    release: Release
    origin: VolumeState
    """The volume as a server has it that answers."""
    sources: Sequence[Site]
    """Servers that have the release whole."""


def _bring_up(showing: _Showing, polled: Poll, site: Site) -> SiteOutcome:
    """Give a site what it lacks, and switch it. It shows the old one until then."""
    volume, context, wanted = showing.peers.volume, showing.peers.context, showing.release
    begun_ns = context.clock()
    before = polled.states.get(site.name)
    try:
        before = _ready(showing, polled, site)
        shown = before.released
        transferred = NOTHING
        if shown is None or shown.revision != wanted.revision:
            bases = own_bases(before)
            if shown is not None:
                bases.insert(0, shown.revision)
            transferred = bring(
                volume, [wanted.revision], bases, sources=showing.sources, to=site, report=context.report
            )
        after = site.switch(volume, wanted).released
        outcome = RELEASED
        if after is not None and after.number > wanted.number:
            outcome = NEWER
        elif shown == wanted:
            outcome = ALREADY
        duration_ns = context.clock() - begun_ns
        done = SiteOutcome(
            site=site.name, outcome=outcome, shows=after, transferred=transferred, duration_ns=duration_ns
        )
        context.report(Note(severity="note", path=site.name.encode(), text=f"{volume}: shows {wanted.clone}"))
    except DalError as error:
        shows = before.released if before is not None else None
        duration_ns = context.clock() - begun_ns
        done = SiteOutcome(site=site.name, outcome=FAILED, shows=shows, error=error, duration_ns=duration_ns)
    return done


def _ready(showing: _Showing, polled: Poll, site: Site) -> VolumeState:
    """Return the state of a read-only site that knows its volume and replica set, made where it is missing."""
    volume, replicas = showing.peers.volume, showing.peers.replicas
    assert replicas is not None
    if isinstance(polled.errors.get(site.name), NotFound):
        before = site.create(reader_state(showing.origin, replicas))
    else:
        before = polled.require(site.name)
    if before.replicas is None or before.replicas.version < replicas.version:
        before = site.arrange(volume, replicas)
    if before.role != READER:
        raise Refused(
            f"{site.name} is a {before.role or 'server without replicas'} of {volume}, not a read-only site: "
            f"`dal replica list {volume}` shows which are"
        )
    return before


def reader_state(origin: VolumeState, replicas: ReplicaSet) -> VolumeState:
    """Return the volume that a site makes for its first release."""
    return VolumeState(
        id=origin.id,
        name=origin.name,
        kind=origin.kind,
        source=b"",
        created_ns=origin.created_ns,
        settings=origin.settings,
        role=READER,
        replicas=replicas,
    )


def _nowhere(peers: Peers, clone: str, revision: bytes, polled: Poll) -> DalError:
    assert peers.replicas is not None
    volume, writers = peers.volume, peers.replicas.writers
    errors = [polled.errors[name] for name in writers if name in polled.errors]
    if (errors and all(isinstance(error, NotFound) for error in errors)) or not errors:
        what = clone or hex_short(revision)
        return NotFound(f"{volume}@{what}: no writer ({_names(writers)}) has it whole: `dal clones {volume}`")
    return Unavailable(f"{volume}: no writer that has it answers: {errors[0]}")


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "no server"


def _first_error(polled: Poll) -> str:
    return next(map(str, polled.errors.values()), "there is none")
