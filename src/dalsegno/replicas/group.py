"""One replicated volume, seen through those of its servers that answer.

A client sends its commits to all writers, brings those that were away to the others' head, and clones all of them at
once. Nothing here is remembered between calls but to save questions: who dies at any point leaves replicas that are
behind, or a lease that ends by itself, and whoever comes next goes on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import msgspec

from dalsegno.chunks.realm import Realm
from dalsegno.formats import objects
from dalsegno.replicas.bring import newest_set
from dalsegno.replicas.clones import NoSource, bring_clones, identity, plan_clones
from dalsegno.replicas.contract import BATCH_IDS_MAX, LEASE_SECONDS, Site
from dalsegno.replicas.heads import (
    HeadPlan,
    Merge,
    bring_head,
    bring_line,
    newest_heads,
    plan_heads,
    strangers,
    unreadable_heads,
)
from dalsegno.replicas.histories import kept, parse_patterns
from dalsegno.replicas.sources import SitesSource
from dalsegno.replicas.transfer import Spool, Transferred, copy, fetch, read_rows, row_ids, row_lengths
from dalsegno.terms.errors import (
    AlreadyThere,
    BadInput,
    Conflict,
    DalError,
    Diverged,
    NoAccess,
    NotFound,
    Refused,
    Unavailable,
)
from dalsegno.terms.events import Note, Report, silent
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.terms.sizes import MIB
from dalsegno.terms.times import SECOND_NS, format_time
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.state import ANY, MAJORITY, STANDBY, WRITER, Clone, ReplicaSet, VolumeState
from dalsegno.volumes.store import check_clone_name
from dalsegno.world.clock import now_ns, pause, ticks_ns
from dalsegno.world.workers import Workers

ROUNDS_MAX: Final = 20
"""How often `catch_up` looks again at what moved meanwhile."""
TRIES_MAX: Final = 8
"""How often a push finds a replica moved on and merges."""
FROZEN_PAUSE_SECONDS: Final = 0.1
FROZEN_SECONDS_MAX: Final = LEASE_SECONDS + 10
"""How long a volume that somebody else has frozen is waited for: a lease ends by itself."""
FREEZE_TRIES_MAX: Final = 20
SOURCE_TRIES_MAX: Final = 3
"""How often sources that went away are looked for again."""
AWAY_NS: Final = 10 * SECOND_NS
"""How long a server that did not answer a push is not asked again while the rule is met without it."""
COMMIT_BYTES_MAX: Final = 32 * MIB
"""A commit with more payload than this goes up in groups instead of in one call."""

T = TypeVar("T")
Parallel = Callable[[Sequence[Callable[[], None]]], None]
"""Run all of some steps, in any order or at once; return when all have ended."""


def in_turn(steps: Sequence[Callable[[], None]]) -> None:
    """Run steps one after the other."""
    for step in steps:
        step()


def side_by_side(workers: Workers) -> Parallel:
    """Return what runs steps on a crew, the first one here."""

    def run(steps: Sequence[Callable[[], None]]) -> None:
        futures = [workers.submit(step) for step in steps[1:]]
        try:
            if steps:
                steps[0]()
        finally:
            for future in futures:
                future.exception()
        for future in futures:
            future.result()

    return run


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the writers of a volume answered."""

    replicas: ReplicaSet
    states: dict[str, VolumeState]
    """Writers that answered."""
    errors: dict[str, DalError]
    """Writers that did not, and why."""

    @property
    def needed(self) -> int:
        """How many writers must have a commit before it is acknowledged."""
        return writers_needed(self.replicas)

    @property
    def heads(self) -> set[bytes]:
        """The heads of those that answered."""
        return {state.head for state in self.states.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """What `catch_up` found and did."""

    head: bytes
    state: VolumeState
    """The volume as all that answered have it now."""
    replicas: ReplicaSet
    reached: tuple[str, ...]
    """Writers that have `head` and all clones."""
    missing: dict[str, DalError]
    """Writers that could not be brought there, and why."""
    brought: dict[str, Transferred]
    """What crossed to each writer that was behind."""
    merged: tuple[bytes, ...]
    """Merges that were made."""
    renamed: tuple[tuple[str, str, Clone], ...]
    """Clones that shared a name with an older one: (name, new name, clone)."""
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """Where a commit is."""

    revision: bytes
    head: bytes
    """The volume's head, which has `revision` in it; another one when somebody else committed, too."""
    state: VolumeState
    acknowledged: tuple[str, ...]
    missing: dict[str, DalError]
    behind: tuple[str, ...]
    """Writers that answer, but lack more than this commit: `catch_up` brings them here."""
    transferred: Transferred
    merged: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """A clone of one revision on several writers."""

    name: str
    clone: Clone
    cloned: tuple[str, ...]
    missing: dict[str, DalError]
    rule: str
    needed: int
    pause_ns: int
    """From the first freeze to the last thaw: how long writers may have waited."""


@dataclass(slots=True)
class _Tally:
    """What a catch-up has done so far."""

    failed: dict[str, DalError] = field(default_factory=dict)
    brought: dict[str, Transferred] = field(default_factory=dict)
    merged: list[bytes] = field(default_factory=list)
    renamed: list[tuple[str, str, Clone]] = field(default_factory=list)
    frozen: DalError | None = None
    unserved: dict[str, int] = field(default_factory=dict)
    """How often nobody could give a server what it lacks."""

    def add(self, name: str, done: Transferred) -> None:
        self.brought[name] = self.brought.get(name, Transferred()) + done


def writers_needed(replicas: ReplicaSet) -> int:
    """Return how many writers the rule of a replica set asks for."""
    if replicas.rule not in (ANY, MAJORITY):
        raise BadInput(f"rule {replicas.rule!r}: expected {ANY} or {MAJORITY}")
    return 1 if replicas.rule == ANY else len(replicas.writers) // 2 + 1


def list_errors(errors: Mapping[str, DalError]) -> str:
    """Return who is missing and why, in one line."""
    return "; ".join(
        text if text.startswith(f"{name}:") else f"{name}: {text}"
        for name, text in sorted((name, str(error)) for name, error in errors.items())
    )


class Group:
    """One volume on several servers."""

    def __init__(
        self,
        volume: str,
        sites: Mapping[str, Site],
        *,
        owner: str,
        realm: Realm,
        merge: Merge,
        local: Site | None = None,
        replicas: ReplicaSet | None = None,
        volume_id: bytes = b"",
        parallel: Parallel = in_turn,
        clock: Callable[[], int] = now_ns,
        ticks: Callable[[], int] = ticks_ns,
        pause: Callable[[float], None] = pause,
        chance: Callable[[], float] = lambda: 0.5,
        publish: Callable[[ReplicaSet], None] = lambda replicas: None,
        report: Report = silent,
    ) -> None:
        """See `volume` through `sites`; this client's own commits are at `local`, which is only read.

        `owner` names this client in leases and is nobody else's. `publish` tells the realm of a new replica set before
        any server hears of it, and raises when somebody else was first. `chance` gives numbers between 0 and 1.
        """
        self.volume = volume
        self.owner = owner
        self._sites = dict(sites)
        self._local = local
        self.realm = realm
        self._merge = merge
        self._replicas = replicas
        self._volume_id = volume_id
        self._parallel = parallel
        self.clock = clock
        self._ticks = ticks
        self._pause = pause
        self._chance = chance
        self._publish = publish
        self._report = report
        self._last: Look | None = None
        self._common = b""
        """A revision that all writers acknowledged, not yet agreed on."""
        self._away: dict[str, tuple[int, DalError]] = {}
        """Writers that did not answer, and until when they are not asked again."""

    # Asking

    def site(self, name: str) -> Site:
        """Return a server by name."""
        site = self._sites.get(name)
        if site is None:
            raise Unavailable(f"{name}: no address known for this server")
        return site

    def _each(self, names: Iterable[str], call: Callable[[Site], T]) -> tuple[dict[str, T], dict[str, DalError]]:
        """Do something at several servers at once; return what each answered and what each refused with."""
        results: dict[str, T] = {}
        errors: dict[str, DalError] = {}

        def step(name: str) -> Callable[[], None]:
            def run() -> None:
                try:
                    results[name] = call(self.site(name))
                except DalError as error:
                    errors[name] = error

            return run

        self._parallel([step(name) for name in names])
        return results, errors

    def look(self, *, arrange: bool = True) -> Look:
        """Ask all writers for their state. Those with an older replica set are told the newest.

        Without `arrange` nothing is changed anywhere.
        """
        known = self._replicas
        states: dict[str, VolumeState] = {}
        errors: dict[str, DalError] = {}
        waiting = set(known.writers if known is not None else self._sites)
        others_asked = known is None
        while waiting:
            asked = sorted(waiting)
            found, failed = self._each(asked, lambda site: site.state(self.volume))
            states.update(found)
            errors.update(failed)
            known = self._newest_set(states.values(), known)
            answered = sum(name in states for name in known.writers)
            waiting = set(known.writers)
            if answered < writers_needed(known) and not others_asked:
                # The writers may be others by now: who else holds the volume knows.
                others_asked = True
                waiting |= set(self._sites)
            waiting -= states.keys() | errors.keys()
        assert known is not None
        self._replicas = known
        self._refuse_foreign(states, errors)
        if arrange:
            self._create_absent(known, states, errors)
        stale = [name for name, state in states.items() if state.replicas is None or _version(state) < known.version]
        if stale and known.version and arrange:
            arranged, deaf = self._each(sorted(stale), lambda site: site.arrange(self.volume, known))
            states.update(arranged)
            for name, error in deaf.items():
                errors[name] = error
                del states[name]
        writers = set(known.writers)
        self._last = Look(
            replicas=known,
            states={name: states[name] for name in sorted(writers & states.keys())},
            errors={name: errors[name] for name in sorted(writers & errors.keys())},
        )
        return self._last

    def _newest_set(self, states: Iterable[VolumeState], known: ReplicaSet | None) -> ReplicaSet:
        newest = newest_set(states, known)
        return newest if newest is not None else ReplicaSet(version=0, writers=sorted(self._sites))

    def _refuse_foreign(self, states: dict[str, VolumeState], errors: dict[str, DalError]) -> None:
        """Put aside servers on which the volume's name means another volume."""
        if not self._volume_id and states:
            newest = max(states.values(), key=lambda state: (_version(state), state.created_ns, state.id))
            self._volume_id = newest.id
        for name in [name for name, state in states.items() if state.id != self._volume_id]:
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
        made, failed = self._each(absent, lambda site: site.create(empty))
        for name, state in made.items():
            states[name] = state
            del errors[name]
        errors.update(failed)

    def _require_some(self, look: Look, failed: Mapping[str, DalError]) -> None:
        if not look.states.keys() - failed.keys():
            errors = {**look.errors, **failed}
            kinds = {type(error) for error in errors.values()}
            if len(kinds) == 1 and not kinds & {Unavailable}:
                raise kinds.pop()(list_errors(errors))
            raise Unavailable(f"volume {self.volume!r}: no writer answers: {list_errors(errors)}")

    def source(self, names: Iterable[str]) -> SitesSource:
        """Return a Source that reads from whichever of these servers has an object, this client's own pool first."""
        sites = [self.site(name) for name in sorted(names)]
        return SitesSource(self.volume, [*([self._local] if self._local is not None else []), *sites], self.realm)

    def newest(self, look: Look) -> list[bytes]:
        """Return the heads of those that answered which lie behind none of the others."""
        source = self.source(look.states)
        source.load_more = lambda: self._load_revisions(source, look.states)
        return newest_heads(source, look.heads - {b""})

    # Catching up

    def catch_up(self, *, head: bytes = b"", owner: str = "", joining: Mapping[str, str] | None = None) -> CaughtUp:
        """Bring every writer that answers to one head and one set of clones.

        `head`, a revision at `local`, is brought in, too; so are servers that are `joining`, with the patterns of the
        clones that they keep. One server that fails does not hold up the others.
        """
        joining = joining or {}
        tally = _Tally()
        until = self._ticks() + FROZEN_SECONDS_MAX * SECOND_NS
        rounds = 0
        while True:
            rounds += 1
            look = self.look()
            self._require_some(look, tally.failed)
            joined, away = self._each(
                sorted(joining.keys() - tally.failed.keys()), lambda site: site.state(self.volume)
            )
            tally.failed.update(away)
            states = {name: state for name, state in {**look.states, **joined}.items() if name not in tally.failed}
            tally.frozen = None
            try:
                moved = self._bring_heads(states, head, owner, tally)
            except Unavailable:
                moved = True  # a server went away while its history was read: the next look tells
            if not moved and not self._bring_clones({**look.replicas.clones, **joining}, states, tally):
                break
            if tally.frozen is not None:
                if self._ticks() > until:
                    raise tally.frozen
                rounds -= 1
                self._pause(FROZEN_PAUSE_SECONDS)
            if rounds >= ROUNDS_MAX:
                raise Conflict(f"volume {self.volume!r}: its replicas change faster than they are brought together")
        target = next(iter(states.values()))
        missing = {**look.errors, **tally.failed}
        if not missing:
            self._agree(look)
        self._last = look
        return CaughtUp(
            head=target.head,
            state=target,
            replicas=look.replicas,
            reached=tuple(sorted(states)),
            missing=missing,
            brought=tally.brought,
            merged=tuple(tally.merged),
            renamed=tuple(tally.renamed),
            rounds=rounds,
        )

    def _bring_heads(self, states: Mapping[str, VolumeState], extra: bytes, owner: str, tally: _Tally) -> bool:
        """Take one step towards one head; return False when all are there."""
        heads = {state.head for state in states.values() if state.head} | ({extra} if extra else set())
        if not heads or (len(heads) == 1 and all(state.head for state in states.values())):
            return False
        source = self.source(states)
        source.load_more = lambda: self._load_revisions(source, states)
        for unreadable, error in unreadable_heads(source, heads).items():
            heads.discard(unreadable)
            tally.failed.update((name, error) for name, state in states.items() if state.head == unreadable)
            if unreadable == extra:
                raise error
        self._put_strangers_aside(source, states, heads, extra, tally)
        if tally.failed.keys() & states.keys():
            return True
        plan = plan_heads(source, self.realm, heads, self._merge)
        with closing(plan):
            waiting = sorted(name for name, state in states.items() if state.head != plan.target)
            if not waiting:
                return False
            if plan.merged is not None:
                tally.merged.append(plan.target)
            holders = self._holders(plan, states, extra)
            results, errors = self._each(
                waiting,
                lambda site: bring_head(
                    self.volume,
                    plan,
                    to=site,
                    state=states[site.name],
                    holders=holders,
                    owner=owner,
                    report=self._report,
                ),
            )
            for name in [name for name, refusal in errors.items() if isinstance(refusal, Diverged)]:
                try:
                    tally.add(name, bring_line(self.volume, plan, to=self.site(name), state=states[name], owner=owner))
                    del errors[name]
                except DalError as again:
                    errors[name] = again
        for name, (_, done) in results.items():
            tally.add(name, done)
        self._sort_errors(errors, tally)
        return True

    def _put_strangers_aside(
        self, source: SitesSource, states: Mapping[str, VolumeState], heads: set[bytes], extra: bytes, tally: _Tally
    ) -> None:
        """Leave alone whoever has no past in common with the others: who is right is for a person to say."""
        tops = newest_heads(source, heads)
        if len(tops) < 2:
            return
        counts = {top: sum(state.head == top for state in states.values()) for top in tops}
        main = max(tops, key=lambda top: (counts[top], read_revision(source, top).created_ns, top))
        alone = strangers(source, tops, to=main)
        for top in alone:
            error = Refused(
                f"its state {hex_short(top)} and the others' have no past in common on the servers that answer: "
                "bring all of them up; if this one was away for longer than they keep the past, or came from an old "
                "copy of its disk, remove this replica by force and add it again"
            )
            if top == extra:
                raise error
            for name, state in states.items():
                if state.head and is_ancestor(source, state.head, top):
                    tally.failed[name] = error

    def _holders(self, plan: HeadPlan, states: Mapping[str, VolumeState], extra: bytes) -> dict[bytes, list[Site]]:
        """Return who has each top whole; this client's own copy, which may lack what others have, comes last."""
        holders = {}
        for top in plan.tops:
            sites = [self.site(name) for name, state in states.items() if state.head == top]
            if top == extra and self._local is not None:
                sites.append(self._local)
            holders[top] = sites
        return holders

    def _load_revisions(self, source: SitesSource, states: Mapping[str, VolumeState]) -> None:
        for name, state in states.items():
            try:
                source.load_revisions(self.site(name), state)
            except (Unavailable, NotFound):
                continue  # what could not be fetched at once is asked for one by one

    def _sort_errors(self, errors: Mapping[str, DalError], tally: _Tally) -> None:
        """Tell who failed from who only has to be looked at again."""
        for name, error in errors.items():
            if isinstance(error, (Diverged, AlreadyThere)):
                continue  # somebody else was here meanwhile
            if isinstance(error, Conflict):
                tally.frozen = error
            elif isinstance(error, NoSource):
                # The next look may find another source, or that there is none.
                tally.unserved[name] = tally.unserved.get(name, 0) + 1
                if tally.unserved[name] >= SOURCE_TRIES_MAX:
                    tally.failed[name] = error
            else:
                tally.failed[name] = error

    def _bring_clones(self, patterns: Mapping[str, str], states: Mapping[str, VolumeState], tally: _Tally) -> bool:
        """Take one step towards one set of clones; return False when all have it."""
        plan = plan_clones(states, patterns=patterns)
        if not plan.steps:
            return False
        for entry in plan.renamed:
            if entry not in tally.renamed:
                tally.renamed.append(entry)
                self._report(
                    Note(
                        severity="note",
                        path=self.volume.encode(errors="surrogateescape"),
                        text=f"clone {self.volume}@{entry[0]} means two states: the later one is now @{entry[1]}",
                    )
                )
        sources = [(self.site(name), state) for name, state in states.items()]

        def bring(site: Site) -> Transferred:
            state = states[site.name]
            own = [state.head, state.common, *(clone.revision for clone in state.clones.values())]
            return bring_clones(
                self.volume,
                plan.steps[site.name],
                to=site,
                bases=[base for base in dict.fromkeys(own) if base],
                sources=sources,
                report=self._report,
            )

        results, errors = self._each(sorted(plan.steps), bring)
        for name, done in results.items():
            tally.add(name, done)
        self._sort_errors(errors, tally)
        return True

    def _agree(self, look: Look) -> None:
        """Tell all writers, who all answered and have one head, that they have."""
        if len(look.heads) != 1:
            return
        head = next(iter(look.heads))
        forget = plan_clones(look.states, patterns=look.replicas.clones).forget
        behind = sorted(name for name, state in look.states.items() if forget or state.common != head)
        if behind and look.replicas.version:
            # Nothing is lost by a server that does not hear it: it keeps more than it needs to until the next time.
            self._each(behind, lambda site: site.agree(self.volume, head, uncloned=forget))

    # Commits

    def push(self, revision: bytes) -> Pushed:
        """Bring `revision`, committed at `local`, to all writers that answer; return when the rule is met.

        Unavailable when it is not: the commit stays where it got to, and the next push or catch-up brings it on.
        """
        assert self._local is not None, "a push needs the pool where the commit was made"
        until = self._ticks() + FROZEN_SECONDS_MAX * SECOND_NS
        total = Transferred()
        merged: tuple[bytes, ...] = ()
        for _ in range(TRIES_MAX):
            passed_over = bool(self._away)
            sending = _Sending(self, self._look_for_push(), revision)
            with closing(sending):
                sending.run()
                total += sending.transferred
                while sending.frozen:
                    if self._ticks() > until:
                        raise next(iter(sending.frozen.values()))
                    self._pause(FROZEN_PAUSE_SECONDS)
                    sending.run_frozen()
            look, acknowledged, missing = sending.look, sending.acknowledged, sending.errors
            behind = sending.behind
            head, state = revision, next(iter(acknowledged.values()), None)
            if sending.replicas_changed:
                self._last = None
                continue
            if sending.diverged or (behind and len(acknowledged) < look.needed):
                caught = self.catch_up(head=revision)
                merged += caught.merged
                for done in caught.brought.values():
                    total += done
                look, missing, behind = self._last or look, caught.missing, set()
                head, state = caught.head, caught.state
                acknowledged = {name: look.states[name] for name in caught.reached}
            self._note_away(missing)
            if len(acknowledged) >= look.needed and state is not None:
                if acknowledged.keys() == set(look.replicas.writers):
                    self._common = head
                return Pushed(
                    revision=revision,
                    head=head,
                    state=state,
                    acknowledged=tuple(sorted(acknowledged)),
                    missing=missing,
                    behind=tuple(sorted(behind)),
                    transferred=total,
                    merged=merged,
                )
            self._last = None
            if not passed_over:
                break
            self._away.clear()  # all are asked once more before the commit is given up
        raise Unavailable(
            f"volume {self.volume!r}: {len(acknowledged)} of {len(look.replicas.writers)} writers have the commit, "
            f"{look.replicas.rule!r} asks for {look.needed}: {list_errors(missing)}"
        )

    def _look_for_push(self) -> Look:
        now = self._ticks()
        for name in [name for name, (until, _) in self._away.items() if until <= now]:
            del self._away[name]
            self._last = None
        if self._last is None:
            look = self.look()
            self._note_away(look.errors)
            return look
        return self._last

    def _note_away(self, errors: Mapping[str, DalError]) -> None:
        for name, error in errors.items():
            if name not in self._away:
                self._away[name] = self._ticks() + AWAY_NS, error

    def increment(self, revision: bytes, base: bytes) -> Spool | None:
        """Return a pack of what `revision` has and `base`, which it comes from, has not; None when that is large."""
        assert self._local is not None
        ids, size = bytearray(), 0
        for rows in read_rows(self._local.missing(self.volume, [revision], [base] if base else []), of="this pool"):
            ids += row_ids(rows)
            size += int(row_lengths(rows).sum())
            if size > COMMIT_BYTES_MAX or len(ids) > BATCH_IDS_MAX * 32:
                return None
        return fetch(self._local, self.volume, bytes(ids))

    # Clones

    def freeze_and_clone(self, name: str | None = None, created_ns: int | None = None) -> Cloned:
        """Name one revision on all writers that answer, which are frozen meanwhile.

        Unavailable, and nothing is cloned, when fewer answer than the volume's rule asks for; Conflict when somebody
        else has the volume frozen for long. Whatever happens the volume thaws, at the latest when the leases end.
        """
        if name is not None:
            check_clone_name(name)
        look = self.look()
        self._require_rule(look)
        if len(look.heads) > 1:
            self.catch_up()  # the long part, while everybody goes on writing
            look = self._last or self.look()
        name, created_ns = self._settle_clone(look, name, created_ns)
        tried: set[str] = set()
        started = self._ticks()
        ended = started
        try:
            frozen, errors, started = self._freeze(look, tried)
            clone = self._clone_frozen(name, created_ns, frozen, errors, look)
        finally:
            if tried:
                self._each(sorted(tried), lambda site: site.thaw(self.volume, owner=self.owner))
                ended = self._ticks()
            self._last = None
        cloned, missing = clone[1], clone[2]
        return Cloned(
            name=name,
            clone=clone[0],
            cloned=tuple(sorted(cloned)),
            missing=missing,
            rule=look.replicas.rule,
            needed=look.needed,
            pause_ns=ended - started,
        )

    def _require_rule(self, look: Look) -> None:
        if len(look.states) < look.needed:
            raise Unavailable(
                f"volume {self.volume!r}: {len(look.states)} of {len(look.replicas.writers)} writers answer, "
                f"{look.replicas.rule!r} asks for {look.needed}: {list_errors(look.errors)}"
            )

    def _settle_clone(self, look: Look, name: str | None, created_ns: int | None) -> tuple[str, int]:
        if not any(state.head for state in look.states.values()):
            raise Refused(f"volume {self.volume!r} is empty: import or back up something first")
        created_ns = self.clock() if created_ns is None else created_ns
        taken = {taken for state in look.states.values() for taken in state.clones}
        if name is not None:
            if name in taken:
                raise AlreadyThere(
                    f"clone {self.volume}@{name} exists already: choose another name, or unclone it first"
                )
            # A clone is told from an earlier one of its name by its time.
            for state in look.states.values():
                for earlier in state.uncloned.get(name, ()):
                    created_ns = max(created_ns, earlier.created_ns + 1)
            return name, created_ns
        wanted = format_time(created_ns)
        free, number = wanted, 2
        while free in taken:
            free, number = f"{wanted}-{number}", number + 1
        return free, created_ns

    def _freeze(self, look: Look, tried: set[str]) -> tuple[dict[str, VolumeState], dict[str, DalError], int]:
        """Freeze all writers that answer, the first by name before the others: who has it goes on, others wait."""
        holder: DalError | None = None
        for _ in range(FREEZE_TRIES_MAX):
            names = sorted(look.states)
            started = self._ticks()
            frozen: dict[str, VolumeState] = {}
            errors: dict[str, DalError] = dict(look.errors)
            busy: DalError | None = None
            for part in (names[:1], names[1:]):
                tried.update(part)
                found, failed = self._each(part, lambda site: site.freeze(self.volume, owner=self.owner))
                frozen.update(found)
                errors.update(failed)
                busy = next((error for error in failed.values() if isinstance(error, Conflict)), None)
                if busy is not None:
                    break
            if busy is None:
                return frozen, errors, started
            holder = busy
            self._each(sorted(tried), lambda site: site.thaw(self.volume, owner=self.owner))
            tried.clear()
            self._pause(FROZEN_PAUSE_SECONDS * (0.5 + 2 * self._chance()))
        assert holder is not None
        raise holder

    def _clone_frozen(
        self,
        name: str,
        created_ns: int,
        frozen: dict[str, VolumeState],
        errors: dict[str, DalError],
        look: Look,
    ) -> tuple[Clone, set[str], dict[str, DalError]]:
        names = set(frozen)
        if len({state.head for state in frozen.values()}) > 1:
            tally = _Tally()
            for _ in range(ROUNDS_MAX):
                if not self._bring_heads({each: frozen[each] for each in names}, b"", self.owner, tally):
                    break
                names -= tally.failed.keys()
                found, failed = self._each(sorted(names), lambda site: site.state(self.volume))
                frozen.update(found)
                tally.failed.update(failed)
                names -= failed.keys()
            errors.update(tally.failed)
        heads = {frozen[each].head for each in names}
        if len(names) < look.needed or len(heads) != 1:
            raise Unavailable(
                f"volume {self.volume!r}: {len(names)} of {len(look.replicas.writers)} writers could be frozen at one "
                f"state, {look.replicas.rule!r} asks for {look.needed}; nothing was cloned: {list_errors(errors)}"
            )
        clone = Clone(revision=heads.pop(), created_ns=created_ns)
        patterns = look.replicas.clones
        keeping = {each for each in names if name in kept(patterns.get(each), {**frozen[each].clones, name: clone})}
        keeping = keeping or names
        done, failed = self._each(sorted(keeping), lambda site: site.clone(self.volume, name, clone))
        errors.update(failed)
        if len(done) + len(names - keeping) < look.needed or not done:
            # Also where no answer came: it may have been done, and must not come back.
            self._each(sorted(keeping), lambda site: site.unclone(self.volume, name, clone))
            raise Unavailable(
                f"volume {self.volume!r}: {len(done)} of {len(look.replicas.writers)} writers cloned, "
                f"{look.replicas.rule!r} asks for {look.needed}; nothing was cloned: {list_errors(errors)}"
            )
        return clone, set(done), errors

    def unclone(self, name: str, *, force: bool = False) -> tuple[Clone, dict[str, DalError]]:
        """Forget a clone on all writers that answer; those that do not forget it when they are caught up.

        Refused while it is held.
        """
        look = self.look()
        self._require_some(look, {})
        found = {
            identity(state.clones[name]): state.clones[name] for state in look.states.values() if name in state.clones
        }
        if not found:
            raise NotFound(f"no clone {self.volume}@{name}: `dal clones {self.volume}` shows what there is")
        if any(clone.held for clone in found.values()) and not force:
            raise Refused(f"clone {self.volume}@{name} is held: `dal unhold {self.volume}@{name}` first")
        errors = dict(look.errors)
        done: set[str] = set()
        for clone in found.values():

            def drop(site: Site, clone: Clone = clone) -> VolumeState:
                return site.unclone(self.volume, name, clone)

            results, failed = self._each(sorted(look.states), drop)
            done |= results.keys()
            errors.update(failed)
        if not done:
            raise Unavailable(f"volume {self.volume!r}: {list_errors(errors)}")
        return next(iter(found.values())), errors

    def set_held(self, name: str, *, held: bool) -> tuple[Clone, dict[str, DalError]]:
        """Hold or unhold a clone on all writers that answer; return it and who did not."""
        look = self.look()
        self._require_some(look, {})
        found = [state.clones[name] for state in look.states.values() if name in state.clones]
        if not found:
            raise NotFound(f"no clone {self.volume}@{name}: `dal clones {self.volume}` shows what there is")
        old = min(found, key=lambda clone: (clone.created_ns, clone.revision))
        if held:
            new = msgspec.structs.replace(old, held=True)
        elif not any(clone.held for clone in found):
            return old, look.errors
        else:
            # Of a clone that is held anywhere all copies are: one that is not is another one, told by its time.
            new = msgspec.structs.replace(old, created_ns=max(clone.created_ns for clone in found) + 1, held=False)

        def change(site: Site) -> VolumeState:
            own = look.states[site.name].clones.get(name)
            if own is not None and identity(own) != identity(new):
                site.unclone(self.volume, name, own)
            return site.clone(self.volume, name, new)

        done, errors = self._each(sorted(look.states), change)
        if not done:
            raise Unavailable(f"volume {self.volume!r}: {list_errors(errors)}")
        return new, {**look.errors, **errors}

    # Which servers

    def create(self, state: VolumeState) -> dict[str, DalError]:
        """Make the empty volume `state` on all writers of its replica set; return those that could not.

        Unavailable when fewer answer than its rule asks for; the others get it when they are caught up.
        """
        replicas = state.replicas
        assert replicas is not None and not state.head
        for pattern in replicas.clones.values():
            parse_patterns(pattern)
        needed = writers_needed(replicas)
        self._replicas, self._volume_id = replicas, state.id
        made, errors = self._each(
            replicas.writers, lambda site: site.create(msgspec.structs.replace(state, role=WRITER))
        )
        for error in errors.values():
            if not isinstance(error, Unavailable):
                raise error
        if len(made) < needed:
            raise Unavailable(
                f"volume {self.volume!r}: made on {len(made)} of {len(replicas.writers)} servers, "
                f"{replicas.rule!r} asks for {needed}: {list_errors(errors)}"
            )
        return errors

    def add_replica(self, name: str, *, clones: str = "") -> CaughtUp:
        """Make one more server a writer: first it gets everything, clones too, and only then commits are sent to it.

        `clones` are the patterns of the clones that it keeps; it keeps all without. What the server has of the volume
        already, from dumps say, does not cross. Until it has all it is a standby, also when this is never finished.
        """
        if clones:
            parse_patterns(clones)
        caught = self.catch_up()
        replicas = caught.replicas
        if name in replicas.writers:
            return caught
        if name not in replicas.standbys:
            replicas = msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                standbys=[*replicas.standbys, name],
                readers=[each for each in replicas.readers if each != name],
            )
            self.arrange(replicas)
        self._join(self.site(name), caught.state, replicas)
        filled = self.catch_up(joining={name: clones})
        if name in filled.missing:
            raise filled.missing[name]
        patterns = {each: text for each, text in replicas.clones.items() if each != name}
        if clones:
            patterns[name] = clones
        self.arrange(
            msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                writers=[*replicas.writers, name],
                standbys=[each for each in replicas.standbys if each != name],
                clones=patterns,
            )
        )
        last = self.catch_up()
        brought = {**filled.brought}
        for each, done in last.brought.items():
            brought[each] = brought.get(each, Transferred()) + done
        return replace(last, brought=brought)

    def _join(self, site: Site, state: VolumeState, replicas: ReplicaSet) -> None:
        try:
            there = site.state(self.volume)
        except NotFound:
            site.create(empty_state(state, replicas=replicas, role=STANDBY))
            return
        if there.id != state.id:
            raise AlreadyThere(
                f"{site.name}: there is another volume called {self.volume!r}: rename or remove it there"
            )
        site.arrange(self.volume, replicas)

    def remove_replica(self, name: str, *, force: bool = False) -> dict[str, DalError]:
        """Take a writer out of the volume, then remove its copy; return who did not hear of it.

        What only this server has is brought to the others first. Unavailable when it does not answer, unless `force`.
        """
        caught = self.catch_up()
        replicas = caught.replicas
        if name not in replicas.writers:
            raise NotFound(f"{name}: no writer of volume {self.volume!r}: {', '.join(replicas.writers)}")
        if len(replicas.writers) == 1:
            raise Refused(
                f"{name} is the only writer of volume {self.volume!r}: add another first, or remove the volume"
            )
        if name in caught.missing and not force:
            raise Unavailable(
                f"{name} does not answer, what only it has would be lost: {caught.missing[name]}; "
                "try again, or use --force"
            )
        others = [each for each in caught.reached if each != name]
        if not others:
            raise Unavailable(f"volume {self.volume!r}: no other writer answers: {list_errors(caught.missing)}")
        deaf = self.arrange(
            msgspec.structs.replace(
                replicas,
                version=replicas.version + 1,
                writers=[each for each in replicas.writers if each != name],
                clones={each: text for each, text in replicas.clones.items() if each != name},
            ),
            also=[name],
        )
        if name not in deaf:
            # Commits that it took until it heard of this.
            site = self.site(name)
            last = site.state(self.volume)
            if last.head != caught.head and name not in caught.missing:
                keeping = Group(
                    self.volume,
                    self._sites,
                    owner=self.owner,
                    realm=self.realm,
                    merge=self._merge,
                    local=site,
                    replicas=self._replicas,
                    volume_id=self._volume_id,
                    parallel=self._parallel,
                    ticks=self._ticks,
                    pause=self._pause,
                    report=self._report,
                )
                keeping.catch_up(head=last.head)
            site.remove(self.volume)
        return deaf

    def arrange(self, replicas: ReplicaSet, *, also: Iterable[str] = ()) -> dict[str, DalError]:
        """Make `replicas` the volume's replica set on all its servers; return those that did not hear it.

        They find out from the others: the larger version counts.
        """
        writers_needed(replicas)
        self._publish(replicas)
        self._replicas, self._last = replicas, None
        names = {*replicas.writers, *replicas.readers, *replicas.standbys, *also} & self._sites.keys()
        _, errors = self._each(sorted(names), lambda site: site.arrange(self.volume, replicas))
        if not set(replicas.writers) - errors.keys():
            return errors
        if set(replicas.writers) <= errors.keys():
            raise Unavailable(f"volume {self.volume!r}: no writer heard of its new replica set: {list_errors(errors)}")
        return errors


class _Sending:
    """One commit on its way to all writers that answered last."""

    def __init__(self, group: Group, look: Look, revision: bytes) -> None:
        self.look = look
        self.acknowledged: dict[str, VolumeState] = {}
        self.errors: dict[str, DalError] = {**look.errors}
        self.frozen: dict[str, DalError] = {}
        self.behind: set[str] = set()
        self.diverged = False
        self.replicas_changed = False
        self.transferred = Transferred()
        self._group = group
        self._revision = revision
        self._packs: dict[bytes, Spool | None] = {}
        """Head: what the commit adds to it; None when that is much."""
        self._lines: set[bytes] = set()
        """Heads that lie far behind the commit."""

    def run(self) -> None:
        """Send the commit to every writer whose head it follows."""
        group, source = self._group, self._group.source(self.look.states)
        for name, (_, error) in group._away.items():
            self.errors[name] = error
        waiting = []
        for name, state in self.look.states.items():
            if state.head == self._revision:
                self.acknowledged[name] = state
            elif name not in group._away:
                waiting.append(name)
        parents = set(objects.decode_revision(source.get(ObjectId(self._revision))).parents)
        for name in list(waiting):
            head = self.look.states[name].head
            if head in self._packs or head in self._lines:
                continue
            is_next = head in parents or not (head or parents)
            if not is_next and head and not self._comes_from(source, head):
                continue
            try:
                # More than this commit may be missing there; what is small goes with it.
                spool = group.increment(self._revision, head) if head or is_next else None
            except (NotFound, Unavailable):
                is_next, spool = False, None  # this client's own pool cannot tell: let servers bring one another up
            if spool is not None or is_next:
                self._packs[head] = spool
            else:
                self._lines.add(head)
        following = [name for name in waiting if self.look.states[name].head in self._packs]
        self.behind.update(name for name in waiting if self.look.states[name].head in self._lines)
        self.diverged = len(following) + len(self.behind) < len(waiting)
        self._send(following)

    def _comes_from(self, source: SitesSource, head: bytes) -> bool:
        try:
            return is_ancestor(source, head, self._revision)
        except (NotFound, Unavailable):
            return False

    def run_frozen(self) -> None:
        """Try again where the volume was frozen."""
        names = sorted(self.frozen)
        self.frozen = {}
        self._send(names)

    def _send(self, names: Sequence[str]) -> None:
        if not names:
            return
        group = self._group
        common = group._common or self._agreed()
        results, errors = group._each(names, lambda site: self._commit(site, common))
        for name, (state, done) in results.items():
            self.transferred += done
            self.look.states[name] = state
            if _version(state) > self.look.replicas.version:
                self.replicas_changed = True
            elif state.role in ("", WRITER):
                self.acknowledged[name] = state
            else:
                self.errors[name] = Refused(f"{name}: is no writer of this volume any more")
        for name, error in errors.items():
            if isinstance(error, Diverged):
                self.diverged = True
            elif isinstance(error, Conflict):
                self.frozen[name] = error
            elif isinstance(error, NotFound):
                self.behind.add(name)
                group._last = None
            else:
                self.errors[name] = error
                if not isinstance(error, Unavailable):
                    group._last = None

    def _agreed(self) -> bytes:
        """Return the head that all writers were seen at, unless they know."""
        heads = self.look.heads
        if len(heads) != 1 or self.look.errors or not self.look.replicas.version:
            return b""
        head = next(iter(heads))
        return head if any(state.common != head for state in self.look.states.values()) else b""

    def _commit(self, site: Site, common: bytes) -> tuple[VolumeState, Transferred]:
        group = self._group
        head = self.look.states[site.name].head
        spool = self._packs[head]
        if spool is None:
            assert group._local is not None
            done = copy(
                group._local, site, group.volume, [self._revision], [head] if head else [], report=group._report
            )
            return site.commit(group.volume, self._revision, b"", (), common=common), done
        done = Transferred(bytes_crossed=spool.size_bytes)
        try:
            state = site.commit(group.volume, self._revision, spool.pack_id(), spool.pieces(), common=common)
        except NoAccess:
            if not common:
                raise
            state = site.commit(group.volume, self._revision, spool.pack_id(), spool.pieces())
        return state, done

    def close(self) -> None:
        """Give the room back."""
        for spool in self._packs.values():
            if spool is not None:
                spool.close()


def empty_state(state: VolumeState, *, replicas: ReplicaSet, role: str) -> VolumeState:
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


def _version(state: VolumeState) -> int:
    return state.replicas.version if state.replicas is not None else 0
