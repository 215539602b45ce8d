"""Follow: a standby that is seconds behind a writer. Promote: the standby becomes the writer.

The standby asks its origin for news and gets an answer as soon as there is any. It always fetches the newest state, so
one that was away for long catches up in one step however many states it missed; the revisions in between come along
without their trees, so that what lies behind what stays known. Nothing is remembered but the standby's own state:
either side may end at any moment, and the next step goes on.

A promotion is a new replica set. Servers and clients that did not hear of it find out from any that did, since the
larger version counts; what a former writer had and nobody else is merged when it comes back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from dalsegno.chunks.realm import Realm
from dalsegno.formats.object_rows import read_rows, row_ids, row_kinds
from dalsegno.formats.objects import KIND_REVISION, decode_revision
from dalsegno.replicas.bring import NOTHING, answers, bring, bring_head, look, newest_set, roles, spread
from dalsegno.replicas.clones import STEPS_AT_ONCE, bring_clones, own_bases, plan_clones
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.histories import kept
from dalsegno.replicas.sources import unpack
from dalsegno.replicas.transfer import Transferred, fetch
from dalsegno.terms.errors import Conflict, DalError, Diverged, Full, Moved, NotFound, Refused, Unavailable, Unsigned
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId
from dalsegno.terms.times import SECOND_NS, time_name
from dalsegno.volumes.clones import Clone, Clones
from dalsegno.volumes.state import STANDBY, WRITER, ReplicaSet, VolumeState

WATCH_SECONDS: Final = 20.0
"""How long an origin without news lets a standby wait for an answer."""
BACKOFF_SECONDS_MIN: Final = 0.25
BACKOFF_SECONDS_MAX: Final = 30.0
CATCH_UP_STEPS_MAX: Final = 20
FROZEN_NS_MAX: Final = 10 * SECOND_NS
TRY_LATER: Final = (Unavailable, Full, Conflict)

Merge = Callable[[str, Sequence[Site]], None]
"""Bring all these sites of a volume to one head, merging heads that diverged."""

DIRECTORY: Final = "the directory"

# Why a step was the last one with this origin.
PROMOTED: Final = "promoted"
"""The standby is a writer now."""
DISMISSED: Final = "dismissed"
"""The standby is none of the volume's standbys any more."""
NO_WRITER: Final = "no-writer"
"""The origin is not a writer of the volume: another one is to be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step of a standby did."""

    origin: str
    here: VolumeState
    """The standby's state after it."""
    news: bool
    transferred: Transferred = NOTHING
    lag_ns: int = 0
    """From the moment when the origin answered to the moment when the standby had it; 0 when there was no news."""
    ended: str = ""


class Follower:
    """A standby of one volume: its state as far as it is known, so that a step asks for nothing twice."""

    def __init__(
        self,
        volume: str,
        standby: Site,
        *,
        clock: Callable[[], int],
        merge: Merge,
        report: Report = silent,
    ) -> None:
        self._volume = volume
        self._standby = standby
        self._clock = clock
        self._merge = merge
        self._report = report
        self._here: VolumeState | None = None

    def forget(self) -> None:
        """Look again at the standby's state before the next step."""
        self._here = None

    def step(self, origin: Site, *, seconds: float = WATCH_SECONDS) -> Step:
        """Wait for news of `origin`, at most `seconds`, and bring it to the standby."""
        try:
            return self._step(origin, seconds)
        except BaseException:
            self.forget()  # whatever failed may have been done all the same
            raise

    def _step(self, origin: Site, seconds: float) -> Step:
        here = self._here or self._begin(origin)
        # The first look waits for nothing: clones may be missing though the head is there.
        wait = seconds if self._here is not None else 0.0
        there = origin.watch(self._volume, here.head, seconds=wait, follower=self._standby.name)
        answered_ns = self._clock()
        here, ended = self._compare_sets(origin, there, here)
        news = False
        transferred = NOTHING
        if not ended:
            news = there.head != here.head
            here, transferred = catch_up(
                self._volume,
                there,
                here,
                origin=origin,
                to=self._standby,
                merge=self._merge,
                report=self._report,
            )
        if not ended and not news:
            here = self._agree(origin, there, here)
        self._here = here
        return Step(
            origin=origin.name,
            here=here,
            news=news,
            transferred=transferred,
            lag_ns=self._clock() - answered_ns if news else 0,
            ended=ended,
        )

    def _begin(self, origin: Site) -> VolumeState:
        try:
            return self._standby.state(self._volume)
        except NotFound:
            there = origin.state(self._volume)
            return self._standby.create(standby_state(there))

    def _compare_sets(self, origin: Site, there: VolumeState, here: VolumeState) -> tuple[VolumeState, str]:
        """Bring the older replica set of the two up to date, and return why following ends, if it does."""
        newest = newest_set((there, here))
        if newest is None:
            raise Refused(
                f"{self._volume} has no replicas: `dal replica add {self._volume} {self._standby.name}` first"
            )
        if here.replicas is None or here.replicas.version < newest.version:
            here = self._standby.arrange(self._volume, newest)
        if there.replicas is None or there.replicas.version < newest.version:
            spread(self._volume, newest, [origin])  # it was away when the volume got another writer
        if here.role == WRITER:
            return here, PROMOTED
        if here.role != STANDBY:
            return here, DISMISSED
        return here, "" if origin.name in newest.writers else NO_WRITER

    def _agree(self, origin: Site, there: VolumeState, here: VolumeState) -> VolumeState:
        """Note on the standby what every writer has by now: a later merge begins there, and older states may go."""
        common = common_of(there)
        known = {name: clones for name, clones in here.uncloned.items() if name not in there.uncloned}
        if common and common != here.common:
            bring(self._volume, [common], [here.head], sources=[origin], to=self._standby)
        elif not known:
            return here
        self._standby.agree(self._volume, common, uncloned=known)
        return msgspec.structs.replace(here, common=common or here.common, uncloned=there.uncloned)


def common_of(there: VolumeState) -> bytes:
    """Return what every writer has, as one of them knows: all, where it is the only one."""
    return there.head if there.replicas is None or len(there.replicas.writers) == 1 else there.common


def catch_up(
    volume: str,
    there: VolumeState,
    here: VolumeState,
    *,
    origin: Site,
    to: Site,
    merge: Merge,
    report: Report = silent,
) -> tuple[VolumeState, Transferred]:
    """Bring the head and the clones of `origin`, whose state is `there`, to the replica whose state is `here`.

    What that one has and the origin has not was acknowledged once: both are brought to one head then.
    """
    transferred = NOTHING
    if there.head and there.head != here.head:
        bases = own_bases(here)
        try:
            here, transferred = bring_head(
                volume, there.head, bases, source=origin, to=to, common=common_of(there), report=report
            )
        except Diverged:
            pass
    if here.head != there.head:
        text = f"{to.name} has what {origin.name} has not: both are brought to one state"
        report(Note(severity="note", path=volume.encode(), text=text))
        merge(volume, (origin, to))
        here = to.state(volume)
    if here.clones != there.clones or here.uncloned != there.uncloned:
        here, more = _even_out_clones(volume, there, here, origin=origin, to=to, report=report)
        transferred += more
    return here, transferred


def _even_out_clones(
    volume: str, there: VolumeState, here: VolumeState, *, origin: Site, to: Site, report: Report
) -> tuple[VolumeState, Transferred]:
    """Give both the clones that either has, but for those that were removed on one of them or are not kept there."""
    patterns = here.replicas.clones if here.replicas is not None else {}
    plan = plan_clones({origin.name: there, to.name: here}, patterns=patterns)
    transferred = NOTHING
    for site, other, state in ((to, origin, there), (origin, to, here)):
        steps = plan.steps.get(site.name)
        if not steps:
            continue
        bases = [here.head] if here.head else []
        transferred += bring_clones(volume, steps, to=site, bases=bases, sources=[(other, state)], report=report)
        if site is to:
            here = to.state(volume)
    return here, transferred


def refuse_to_merge(volume: str, sites: Sequence[Site]) -> None:
    """Raise Diverged: while a volume is frozen nothing is merged."""
    raise Diverged(f"{volume}: {sites[0].name} and {sites[1].name} have different states")


def standby_state(origin: VolumeState) -> VolumeState:
    """Return the volume that a standby makes before it first follows."""
    return msgspec.structs.replace(
        origin,
        head=b"",
        clones=Clones(),
        lease=None,
        role=STANDBY,
        common=b"",
        uncloned={},
        released=None,
        replicas=newest_set((origin,)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a standby is behind."""

    revisions: int
    seconds: float
    """Since the oldest revision that it has not was made; the clock of who committed and the caller's tell."""


def measure_lag(volume: str, origin: Site, there: VolumeState, here: VolumeState, *, realm: Realm, now_ns: int) -> Lag:
    """Return how far `here` is behind the writer `origin`, whose state is `there`.

    NotFound when that writer does not know where the standby is.
    """
    if here.head == there.head or not there.head:
        return Lag(revisions=0, seconds=0.0)
    if here.head:
        origin.block(volume, ObjectId(here.head))
    ids = b""
    for rows in read_rows(origin.missing(volume, [there.head], [here.head] if here.head else []), of=origin.name):
        ids += row_ids(rows[row_kinds(rows) == KIND_REVISION])
    times = []
    for start in range(0, len(ids), BATCH_IDS_MAX * OBJECT_ID_BYTES):
        with fetch(origin, volume, ids[start : start + BATCH_IDS_MAX * OBJECT_ID_BYTES]) as spool:
            times += [decode_revision(payload).created_ns for _, _, payload in unpack(spool, realm)]
    if not times:
        return Lag(revisions=0, seconds=0.0)  # the standby is ahead
    return Lag(revisions=len(times), seconds=max(0, now_ns - min(times)) / SECOND_NS)


def begin_anew(volume: str, origin: Site, standby: Site, *, report: Report = silent) -> VolumeState:
    """Make the standby a copy of its origin although it has another past, which is lost: only when told to.

    Everything is there before the old state goes, so the standby is without one for a moment only.
    """
    there = origin.state(volume)
    here = standby.state(volume)
    if here.role != STANDBY:
        raise Refused(f"{standby.name} is a {here.role or 'server without replicas'} of {volume}, not a standby")
    patterns = here.replicas.clones if here.replicas is not None else {}
    keeps = kept(patterns.get(standby.name), there.clones)
    revisions = {there.head, *(there.clones[name].revision for name in keeps)} - {b""}
    wanted = sorted(revisions)
    for start in range(0, len(wanted), STEPS_AT_ONCE):
        done = wanted[max(0, start - 1) : start]
        bring(volume, wanted[start : start + STEPS_AT_ONCE], done, sources=[origin], to=standby, report=report)
    standby.remove(volume)
    here = standby.create(standby_state(there))
    if there.head:
        here = standby.advance(volume, there.head)
    for name in sorted(keeps):
        here = standby.clone(volume, name, there.clones[name])
    return here


def follow(
    volume: str,
    standby: Site,
    origins: Callable[[], Sequence[Site]],
    *,
    clock: Callable[[], int],
    pause: Callable[[float], None],
    chance: Callable[[], float],
    merge: Merge,
    ended: Callable[[], bool],
    stepped: Callable[[Step], None] = lambda step: None,
    report: Report = silent,
    seconds: float = WATCH_SECONDS,
) -> str:
    """Follow whichever of `origins` answers until `ended`, or until there is nothing to follow; return why.

    `origins` is asked at the beginning, and after something went wrong. An origin that goes away is tried again, after
    pauses that grow up to half a minute, in turn with the others; `chance` (0 to 1) spreads the standbys that lost it
    together.
    """
    follower = Follower(volume, standby, clock=clock, merge=merge, report=report)
    failures = 0
    known: Sequence[Site] = ()
    while not ended():
        try:
            if failures or not known:
                known = origins()
            if not known:
                raise Unavailable(f"{volume}: no writer is known")
            step = follower.step(known[failures % len(known)], seconds=seconds)
        except (*TRY_LATER, Moved, Unsigned) as error:
            failures += 1
            # One writer that was broken into does not keep a standby from the others.
            severity = "notice" if isinstance(error, Unsigned) else "note"
            report(Note(severity=severity, path=volume.encode(), text=f"{error}: trying again"))
            pause(backoff(failures, chance()))
            continue
        stepped(step)
        if step.ended in (PROMOTED, DISMISSED):
            return step.ended
        if step.ended:
            failures += 1
            pause(backoff(failures, chance()))
        else:
            failures = 0
    return ""


def backoff(failures: int, chance: float) -> float:
    """Return how many seconds to wait after so many failures in a row: double each time, and by chance a bit less."""
    longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * float(2 ** min(failures - 1, 20)))
    return longest * (0.5 + 0.5 * chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What a promotion did."""

    replicas: ReplicaSet
    state: VolumeState
    """Of the new writer."""
    reached: tuple[str, ...]
    """Former writers of which nothing is missing."""
    away: tuple[str, ...]
    """Former writers that did not answer: what only they have is merged when they come back."""
    kept: str
    """The clone that keeps whole what such a merge begins from; empty when nobody was away."""
    deaf: tuple[str, ...]
    """Servers, the directory among them, that did not hear of it yet."""
    pause_ns: int
    """How long nobody could write; 0 when nobody could be asked to wait."""


def promote(
    volume: str,
    target: Site,
    others: Sequence[Site],
    *,
    owner: str,
    known: ReplicaSet | None,
    publish: Callable[[Callable[[ReplicaSet], ReplicaSet]], ReplicaSet],
    clock: Callable[[], int],
    merge: Merge,
    report: Report = silent,
) -> Promotion:
    """Make `target` the one writer of a volume; former writers become standbys. Done again, it finishes what was begun.

    Writers that answer are caught up with first, and frozen for the last of it. `publish` tells the directory.
    """
    looked = look(volume, [target, *others])
    here = looked[target.name]
    if isinstance(here, DalError):
        raise here
    states = answers(looked)
    current = newest_set(states.values(), known)
    _check_candidate(volume, target, current)
    assert current is not None
    writers = [site for site in others if site.name in current.writers]
    live = [site for site in writers if site.name in states]
    away = tuple(name for name in current.writers if name not in {target.name, *(site.name for site in live)})
    begun_ns = clock()
    try:
        if current.writers != [target.name]:
            here, begun_ns = _take_over(
                volume, target, live, here, owner=owner, clock=clock, merge=merge, report=report
            )
        kept = ""
        if away and here.head:
            now_ns = clock()
            kept = f"before-promotion-{time_name(now_ns)}"
            target.clone(volume, kept, Clone(revision=here.head, created_ns=now_ns, automatic=True))
        deaf: list[str] = []
        try:
            replicas = publish(lambda latest: promoted(_newer(latest, current), target.name))
        except Unavailable as error:
            report(Note(severity="note", path=volume.encode(), text=f"the directory hears of it later: {error}"))
            replicas = promoted(current, target.name)
            deaf.append(DIRECTORY)
        here = target.arrange(volume, replicas)
        deaf += spread(volume, replicas, live)
        pause_ns = clock() - begun_ns if live else 0
    finally:
        thaw(volume, live, owner)
    others = [site for site in others if site.name in roles(replicas) and site not in live]
    deaf += spread(volume, replicas, others)
    return Promotion(
        replicas=replicas,
        state=here,
        reached=tuple(site.name for site in live),
        away=away,
        kept=kept,
        deaf=tuple(deaf),
        pause_ns=pause_ns,
    )


def promoted(replicas: ReplicaSet, name: str) -> ReplicaSet:
    """Return the set in which `name` is the writer and former writers are standbys."""
    if replicas.writers == [name]:
        return replicas
    standbys = [each for each in (*replicas.standbys, *replicas.writers) if each != name]
    return msgspec.structs.replace(replicas, version=replicas.version + 1, writers=[name], standbys=standbys)


def _newer(latest: ReplicaSet, known: ReplicaSet) -> ReplicaSet:
    return max(latest, known, key=lambda each: each.version)


def _check_candidate(volume: str, target: Site, replicas: ReplicaSet | None) -> None:
    if replicas is None:
        raise Refused(f"{volume} has no replicas: `dal replica add {volume} SERVER --standby` makes a standby")
    if target.name in replicas.readers:
        raise Refused(f"{target.name} is a read-only site of {volume}: it has only what was released to it")
    if target.name in replicas.writers and len(replicas.writers) > 1:
        raise Refused(f"{target.name} is a writer of {volume} already: `dal replica list {volume}`")
    if target.name not in (*replicas.writers, *replicas.standbys):
        raise Refused(f"{target.name} is no replica of {volume}: `dal replica add {volume} {target.name}` first")


def _take_over(
    volume: str,
    target: Site,
    live: Sequence[Site],
    here: VolumeState,
    *,
    owner: str,
    clock: Callable[[], int],
    merge: Merge,
    report: Report,
) -> tuple[VolumeState, int]:
    """Bring all that the writers have to `target`, and return with them frozen, and since when."""
    for _ in range(CATCH_UP_STEPS_MAX):
        for site in live:
            here, _ = catch_up(volume, site.state(volume), here, origin=site, to=target, merge=merge, report=report)
        begun_ns = clock()
        try:
            for site in live:
                there = site.freeze(volume, owner=owner)
                here, _ = catch_up(volume, there, here, origin=site, to=target, merge=refuse_to_merge)
            if clock() - begun_ns < FROZEN_NS_MAX:
                return here, begun_ns
        except Diverged:
            pass  # two writers took different commits in between: they are merged in the next round
        thaw(volume, live, owner)
    raise Unavailable(f"{volume}: users write faster than {target.name} catches up: try again at a quieter time")


def thaw(volume: str, sites: Sequence[Site], owner: str) -> None:
    """End our lease on each site, as far as it hears it; the rest end by themselves."""
    for site in sites:
        try:
            site.thaw(volume, owner=owner)
        except DalError:
            continue
