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

from dalsegno.formats.object_rows import read_rows, row_ids, row_kinds
from dalsegno.formats.objects import KIND_REVISION, decode_revision
from dalsegno.replicas.clones import STEPS_AT_ONCE, bring_clones, own_bases, plan_clones
from dalsegno.replicas.context import ReplicaContext
from dalsegno.replicas.contract import BATCH_IDS_MAX, Site
from dalsegno.replicas.heads import fast_forward, merge_replicas
from dalsegno.replicas.histories import kept
from dalsegno.replicas.peers import Peers, unaware
from dalsegno.replicas.replica_sets import newer, newest_set, promoted, roles
from dalsegno.replicas.sources import unpack
from dalsegno.replicas.transfer import NOTHING, Transferred, bring, fetch
from dalsegno.terms.errors import Conflict, Diverged, Full, Moved, NotFound, Refused, Unavailable, Unsigned
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

DIRECTORY: Final = "the directory"
Publish = Callable[[Callable[[ReplicaSet], ReplicaSet]], ReplicaSet]
"""Replace a volume's replica set in the directory by a function of it, and return the new one."""

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
        context: ReplicaContext,
    ) -> None:
        self._volume = volume
        self._standby = standby
        self._context = context
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
        answered_ns = self._context.clock()
        here, ended = self._compare_sets(origin, there, here)
        news = False
        transferred = NOTHING
        if not ended:
            news = there.head != here.head
            pair = Pair(volume=self._volume, origin=origin, to=self._standby, context=self._context)
            here, transferred = catch_up(pair, there, here)
        if not ended and not news:
            here = self._agree(origin, there, here)
        self._here = here
        return Step(
            origin=origin.name,
            here=here,
            news=news,
            transferred=transferred,
            lag_ns=self._context.clock() - answered_ns if news else 0,
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
            # It was unreachable when the volume got another writer.
            peers = Peers(volume=self._volume, sites={origin.name: origin}, context=self._context)
            peers.set_replica_set(newest, [origin.name])
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two replicas of a volume, one of which gets what the other has."""

    volume: str
    origin: Site
    to: Site
    context: ReplicaContext


def catch_up(
    pair: Pair, there: VolumeState, here: VolumeState, *, may_merge: bool = True
) -> tuple[VolumeState, Transferred]:
    """Bring the head and the clones of the origin, whose state is `there`, to the other, whose state is `here`.

    What that one has and the origin has not was acknowledged once: both are brought to one head then; Diverged unless
    they `may_merge`, which nothing does while a volume is frozen.
    """
    volume, origin, to, report = pair.volume, pair.origin, pair.to, pair.context.report
    transferred = NOTHING
    if there.head and there.head != here.head:
        bases = own_bases(here)
        try:
            here, transferred = fast_forward(
                volume, there.head, bases, source=origin, to=to, common=common_of(there), report=report
            )
        except Diverged:
            pass
    if here.head != there.head:
        if not may_merge:
            raise Diverged(f"{volume}: {origin.name} and {to.name} have different states")
        text = f"{to.name} has what {origin.name} has not: both are brought to one state"
        report(Note(severity="note", path=volume.encode(), text=text))
        merge_replicas(volume, (origin, to), pair.context)
        here = to.state(volume)
    if here.clones != there.clones or here.uncloned != there.uncloned:
        here, more = _even_out_clones(pair, there, here)
        transferred += more
    return here, transferred


def _even_out_clones(pair: Pair, there: VolumeState, here: VolumeState) -> tuple[VolumeState, Transferred]:
    """Give both the clones that either has, but for those that were removed on one of them or are not kept there."""
    volume, origin, to, report = pair.volume, pair.origin, pair.to, pair.context.report
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


def measure_lag(peers: Peers, writer: str, there: VolumeState, here: VolumeState) -> Lag:
    """Return how far `here` is behind a writer, whose state is `there`.

    NotFound when that writer does not know where the standby is.
    """
    volume, origin = peers.volume, peers.site(writer)
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
            times += [decode_revision(payload).created_ns for _, _, payload in unpack(spool, peers.context.realm)]
    if not times:
        return Lag(revisions=0, seconds=0.0)  # the standby is ahead
    return Lag(revisions=len(times), seconds=max(0, peers.context.clock() - min(times)) / SECOND_NS)


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
    context: ReplicaContext,
    *,
    ended: Callable[[], bool],
    stepped: Callable[[Step], None] = lambda step: None,
    seconds: float = WATCH_SECONDS,
) -> str:
    """Follow whichever of `origins` answers until `ended`, or until there is nothing to follow; return why.

    `origins` is asked at the beginning, and after something went wrong. An origin that becomes unreachable is tried
    again, after pauses that grow up to half a minute, in turn with the others; randomness spreads the standbys that
    lost it together. Each request for news waits `seconds` at most.
    """
    follower = Follower(volume, standby, context)
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
            context.report(Note(severity=severity, path=volume.encode(), text=f"{error}: trying again"))
            context.pause(backoff(failures, context.randomness()))
            continue
        stepped(step)
        if step.ended in (PROMOTED, DISMISSED):
            return step.ended
        if step.ended:
            failures += 1
            context.pause(backoff(failures, context.randomness()))
        else:
            failures = 0
    return ""


def backoff(failures: int, randomness: float) -> float:
    """Return how many seconds to wait after so many failures in a row: double each time, and a random part less."""
    longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * float(2 ** min(failures - 1, 20)))
    return longest * (0.5 + 0.5 * randomness)


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


def promote(peers: Peers, target: str, *, publish: Publish) -> Promotion:
    """Make `target` the one writer of a volume; former writers become standbys. Done again, it finishes what was begun.

    Writers that answer are caught up with first, and frozen for the last of it. `publish` tells the directory.
    """
    volume, context = peers.volume, peers.context
    polled = peers.poll([target, *(name for name in peers.sites if name != target)])
    here = polled.require(target)
    current = newest_set(polled.states.values(), peers.replicas)
    _check_candidate(volume, target, current)
    assert current is not None
    live = [name for name in polled.states if name != target and name in current.writers]
    away = tuple(name for name in current.writers if name not in (target, *live))
    begun_ns = context.clock()
    try:
        if current.writers != [target]:
            here, begun_ns = _take_over(peers, target, live, here)
        kept = _keep_for_merge(peers, target, here) if away and here.head else ""
        replicas, deaf = publish_or_later(
            peers, promoted(current, target), lambda latest: promoted(newer(latest, current), target), publish
        )
        here = peers.site(target).arrange(volume, replicas)
        deaf += unaware(peers.set_replica_set(replicas, live)[1])
        pause_ns = context.clock() - begun_ns if live else 0
    finally:
        peers.thaw(live)
    others = [name for name in peers.sites if name != target and name in roles(replicas) and name not in live]
    deaf += unaware(peers.set_replica_set(replicas, others)[1])
    return Promotion(
        replicas=replicas,
        state=here,
        reached=tuple(live),
        away=away,
        kept=kept,
        deaf=tuple(deaf),
        pause_ns=pause_ns,
    )


def _keep_for_merge(peers: Peers, target: str, here: VolumeState) -> str:
    """Clone what a later merge with an unreachable writer begins from; return the clone's name."""
    now_ns = peers.context.clock()
    name = f"before-promotion-{time_name(now_ns)}"
    peers.site(target).clone(peers.volume, name, Clone(revision=here.head, created_ns=now_ns, automatic=True))
    return name


def publish_or_later(
    peers: Peers, replicas: ReplicaSet, change: Callable[[ReplicaSet], ReplicaSet], publish: Publish
) -> tuple[ReplicaSet, list[str]]:
    """Have the directory make `change`; return what it has then, or `replicas` and DIRECTORY when it is unreachable."""
    try:
        return publish(change), []
    except Unavailable as error:
        text = f"the directory hears of it later: {error}"
        peers.context.report(Note(severity="note", path=peers.volume.encode(), text=text))
        return replicas, [DIRECTORY]


def _check_candidate(volume: str, target: str, replicas: ReplicaSet | None) -> None:
    if replicas is None:
        raise Refused(f"{volume} has no replicas: `dal replica add {volume} SERVER --standby` makes a standby")
    if target in replicas.readers:
        raise Refused(f"{target} is a read-only site of {volume}: it has only what was released to it")
    if target in replicas.writers and len(replicas.writers) > 1:
        raise Refused(f"{target} is a writer of {volume} already: `dal replica list {volume}`")
    if target not in (*replicas.writers, *replicas.standbys):
        raise Refused(f"{target} is no replica of {volume}: `dal replica add {volume} {target}` first")


def _take_over(peers: Peers, target: str, live: Sequence[str], here: VolumeState) -> tuple[VolumeState, int]:
    """Bring all that the writers have to `target`, and return with them frozen, and since when."""
    volume, context = peers.volume, peers.context
    pairs = [Pair(volume=volume, origin=peers.site(name), to=peers.site(target), context=context) for name in live]
    for _ in range(CATCH_UP_STEPS_MAX):
        for pair in pairs:
            here, _ = catch_up(pair, pair.origin.state(volume), here)
        begun_ns = context.clock()
        try:
            for pair in pairs:
                there = pair.origin.freeze(volume, owner=context.owner)
                here, _ = catch_up(pair, there, here, may_merge=False)
            if context.clock() - begun_ns < FROZEN_NS_MAX:
                return here, begun_ns
        except Diverged:
            pass  # two writers took different commits in between: they are merged in the next round
        peers.thaw(live)
    raise Unavailable(f"{volume}: users write faster than {target} catches up: try again at a quieter time")
