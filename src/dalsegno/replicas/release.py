"""Release: show one revision on the read-only sites of a volume, each of which switches in one step.

A release is first noted on the writers that have its revision: from then on it is *the* release, whatever happens to
who made it, and every site can catch up on its own. Then each site gets what it lacks while it goes on showing what it
showed, and switches. Sites do not wait for each other: one that is down fails alone, and the next release, or its own
pull, brings it the newest. What counts is the number, so releasing an older clone again is a release like any other.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dalsegno.replicas.bring import NOTHING, Looked, answers, bring, look, newest_set
from dalsegno.replicas.clones import own_bases
from dalsegno.replicas.contract import Site
from dalsegno.replicas.transfer import Transferred
from dalsegno.terms.errors import Conflict, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import show_time
from dalsegno.volumes.state import READER, Release, ReplicaSet, VolumeState
from dalsegno.world.workers import Workers

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


def release(
    volume: str,
    revision: bytes,
    *,
    clone: str,
    writers: Sequence[Site],
    readers: Sequence[Site],
    replicas: ReplicaSet,
    clock: Callable[[], int],
    crew: Workers | None = None,
    report: Report = silent,
) -> Released:
    """Release `revision`, known as `clone`, to `readers`, several at once where there is a crew.

    Unavailable when no writer answers, NotFound when none that does has the revision whole: then nothing changed.
    What goes wrong on a read-only site is in its outcome.
    """
    looked = look(volume, [*writers, *readers], crew=crew)
    states = answers(looked)
    sources = _holders(volume, revision, [writer for writer in writers if writer.name in states])
    if not sources:
        raise _nowhere(volume, clone, revision, writers, looked)
    wanted = next_release(states.values(), revision=revision, clone=clone, now_ns=clock())
    noted = _note(volume, wanted, sources)
    origin = states[sources[0].name]

    def to_site(site: Site) -> SiteOutcome:
        return _bring_up(
            volume,
            wanted,
            looked[site.name],
            site=site,
            origin=origin,
            sources=sources,
            replicas=replicas,
            clock=clock,
            report=report,
        )

    outcomes = tuple(crew.map_ordered(to_site, readers) if crew is not None else map(to_site, readers))
    return Released(release=wanted, noted=noted, outcomes=outcomes)


def pull(
    volume: str,
    reader: Site,
    *,
    writers: Sequence[Site],
    others: Sequence[Site] = (),
    clock: Callable[[], int],
    crew: Workers | None = None,
    report: Report = silent,
) -> SiteOutcome:
    """Bring one read-only site the newest release that anybody knows of; `others` are read-only sites, too.

    NotFound when nothing was ever released; Unavailable when nobody else answers.
    """
    sites = [site for site in (*writers, *others) if site.name != reader.name]
    looked = look(volume, sites, crew=crew)
    states = answers(looked)
    if not states:
        raise Unavailable(f"{volume}: none of {_names(sites)} answers: {_first_error(looked.values())}")
    known = newest_release(states.values())
    if known is None:
        raise NotFound(f"{volume}: nothing was released yet: `dal release {volume}@CLONE --to {reader.name}`")
    sources = _holders(volume, known.revision, [site for site in sites if site.name in states])
    origin = next(iter(states.values()))
    replicas = newest_set(states.values())
    if not sources or replicas is None:
        raise Unavailable(f"{volume}: no server that answers has the release of {show_time(known.released_ns)} whole")
    before = look(volume, [reader])[reader.name]
    return _bring_up(
        volume,
        known,
        before,
        site=reader,
        origin=origin,
        sources=sources,
        replicas=replicas,
        clock=clock,
        report=report,
    )


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


def _bring_up(
    volume: str,
    wanted: Release,
    before: VolumeState | DalError,
    *,
    site: Site,
    origin: VolumeState,
    sources: Sequence[Site],
    replicas: ReplicaSet,
    clock: Callable[[], int],
    report: Report,
) -> SiteOutcome:
    """Give a site what it lacks, and switch it. It shows the old one until then."""
    begun_ns = clock()
    try:
        if isinstance(before, NotFound):
            before = site.create(reader_state(origin, replicas))
        if isinstance(before, DalError):
            raise before
        if before.replicas is None or before.replicas.version < replicas.version:
            before = site.arrange(volume, replicas)
        if before.role != READER:
            raise Refused(
                f"{site.name} is a {before.role or 'server without replicas'} of {volume}, not a read-only site: "
                f"`dal replica list {volume}` shows which are"
            )
        shown = before.released
        transferred = NOTHING
        if shown is None or shown.revision != wanted.revision:
            bases = own_bases(before)
            if shown is not None:
                bases.insert(0, shown.revision)
            transferred = bring(volume, [wanted.revision], bases, sources=sources, to=site, report=report)
        after = site.switch(volume, wanted).released
        outcome = RELEASED
        if after is not None and after.number > wanted.number:
            outcome = NEWER
        elif shown == wanted:
            outcome = ALREADY
        done = SiteOutcome(
            site=site.name, outcome=outcome, shows=after, transferred=transferred, duration_ns=clock() - begun_ns
        )
        report(Note(severity="note", path=site.name.encode(), text=f"{volume}: shows {wanted.clone}"))
    except DalError as error:
        shows = before.released if isinstance(before, VolumeState) else None
        done = SiteOutcome(site=site.name, outcome=FAILED, shows=shows, error=error, duration_ns=clock() - begun_ns)
    return done


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


def _nowhere(volume: str, clone: str, revision: bytes, writers: Sequence[Site], looked: Looked) -> DalError:
    errors = [error for site in writers if isinstance(error := looked[site.name], DalError)]
    if (errors and all(isinstance(error, NotFound) for error in errors)) or not errors:
        what = clone or hex_short(revision)
        return NotFound(f"{volume}@{what}: no writer ({_names(writers)}) has it whole: `dal clones {volume}`")
    return Unavailable(f"{volume}: no writer that has it answers: {errors[0]}")


def _names(sites: Iterable[Site]) -> str:
    return ", ".join(site.name for site in sites) or "no server"


def _first_error(looked: Iterable[VolumeState | DalError]) -> str:
    return next((str(each) for each in looked if isinstance(each, DalError)), "there is none")
