"""Bring all servers of a volume that answer to one head and one set of clones."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from dalsegno.replicas.clones import NoSource, bring_clones, own_bases, plan_clones
from dalsegno.replicas.contract import LEASE_SECONDS, Site
from dalsegno.replicas.heads import (
    HeadPlan,
    newest_heads,
    plan_heads,
    send_head,
    send_revisions,
    strangers,
    unreadable_heads,
)
from dalsegno.replicas.sources import SitesSource
from dalsegno.replicas.transfer import Transferred
from dalsegno.replicas.writers import WriterPoll, Writers
from dalsegno.terms.errors import AlreadyThere, Conflict, DalError, Diverged, Refused, Unavailable
from dalsegno.terms.events import Note
from dalsegno.terms.ids import hex_short
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import is_ancestor
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import ReplicaSet, VolumeState

ROUNDS_MAX: Final = 20
"""How often is looked again at what moved meanwhile."""
FROZEN_PAUSE_SECONDS: Final = 0.1
FROZEN_SECONDS_MAX: Final = LEASE_SECONDS + 10
"""How long a volume that somebody else has frozen is waited for: a lease ends by itself."""
SOURCE_TRIES_MAX: Final = 3
"""How often sources that went away are looked for again."""


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


@dataclass(slots=True)
class Tally:
    """What a catch-up has done so far."""

    failed: dict[str, DalError] = field(default_factory=dict)
    brought: dict[str, Transferred] = field(default_factory=dict)
    merged: list[bytes] = field(default_factory=list)
    renamed: list[tuple[str, str, Clone]] = field(default_factory=list)
    frozen: dict[str, DalError] = field(default_factory=dict)
    """Who has to be asked again, because somebody else has the volume frozen there."""
    unserved: dict[str, int] = field(default_factory=dict)
    """How often nobody could give a server what it lacks."""

    def add(self, name: str, done: Transferred) -> None:
        self.brought[name] = self.brought.get(name, Transferred()) + done


def catch_up(writers: Writers, *, head: bytes = b"", joining: Mapping[str, str] | None = None) -> CaughtUp:
    """Bring every writer that answers to one head and one set of clones.

    `head`, a revision at `local`, is brought in, too; so are servers that are `joining`, with the patterns of the
    clones that they keep. One server that fails does not hold up the others.
    """
    joining = joining or {}
    tally = Tally()
    until = writers.context.ticks() + FROZEN_SECONDS_MAX * SECOND_NS
    trouble: DalError = Conflict(
        f"volume {writers.volume!r}: its replicas change faster than they are brought together"
    )
    rounds = 0
    while True:
        rounds += 1
        polled = writers.poll()
        writers.require_some(polled, tally.failed)
        joined, away = writers.each(
            sorted(joining.keys() - tally.failed.keys()), lambda site: site.state(writers.volume)
        )
        tally.failed.update(away)
        states = {name: state for name, state in {**polled.states, **joined}.items() if name not in tally.failed}
        tally.frozen.clear()
        try:
            moved = bring_heads(writers, states, head, tally)
        except Unavailable as error:
            moved, trouble = True, error  # a server went away while its history was read: the next poll tells
        if not moved and not _bring_clones(writers, {**polled.replicas.clones, **joining}, states, tally):
            break
        if tally.frozen:
            if writers.context.ticks() > until:
                tally.failed.update(tally.frozen)
            rounds -= 1
            writers.context.pause(FROZEN_PAUSE_SECONDS)
        if rounds >= ROUNDS_MAX:
            raise trouble
    target = next(iter(states.values()))
    missing = {**polled.errors, **tally.failed}
    if not missing:
        _agree(writers, polled)
    writers.last = polled
    return CaughtUp(
        head=target.head,
        state=target,
        replicas=polled.replicas,
        reached=tuple(sorted(states)),
        missing=missing,
        brought=tally.brought,
        merged=tuple(tally.merged),
        renamed=tuple(tally.renamed),
        rounds=rounds,
    )


def bring_heads(
    writers: Writers, states: Mapping[str, VolumeState], extra: bytes, tally: Tally, *, owner: str = ""
) -> bool:
    """Take one step towards one head; return False when all are there."""
    heads = {state.head for state in states.values() if state.head} | ({extra} if extra else set())
    if not heads or (len(heads) == 1 and all(state.head for state in states.values())):
        return False
    source = writers.source(states)
    source.load_more = lambda: writers.load_revisions(source, states)
    for unreadable, error in unreadable_heads(source, heads).items():
        heads.discard(unreadable)
        tally.failed.update((name, error) for name, state in states.items() if state.head == unreadable)
        if unreadable == extra:
            raise error
    _put_strangers_aside(writers, source, states, heads, extra, tally)
    if tally.failed.keys() & states.keys():
        return True
    plan = plan_heads(source, writers.context.realm, heads, writers.context.merge)
    with closing(plan):
        waiting = sorted(name for name, state in states.items() if state.head != plan.target)
        if not waiting:
            return False
        if plan.merged is not None:
            tally.merged.append(plan.target)
        holders = _holders(writers, plan, states, extra)
        results, errors = writers.each(
            waiting,
            lambda site: send_head(
                writers.volume,
                plan,
                to=site,
                state=states[site.name],
                holders=holders,
                owner=owner,
                report=writers.context.report,
            ),
        )
        for name in [name for name, refusal in errors.items() if isinstance(refusal, Diverged)]:
            try:
                site = writers.site(name)
                tally.add(name, send_revisions(writers.volume, plan, to=site, state=states[name], owner=owner))
                del errors[name]
            except DalError as again:
                errors[name] = again
    for name, (_, done) in results.items():
        tally.add(name, done)
    _sort_errors(errors, tally)
    return True


def _put_strangers_aside(
    writers: Writers,
    source: SitesSource,
    states: Mapping[str, VolumeState],
    heads: set[bytes],
    extra: bytes,
    tally: Tally,
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


def _holders(
    writers: Writers, plan: HeadPlan, states: Mapping[str, VolumeState], extra: bytes
) -> dict[bytes, list[Site]]:
    """Return who has each top whole; this client's own copy, which may lack what others have, comes last."""
    holders = {}
    for top in plan.tops:
        sites = [writers.site(name) for name, state in states.items() if state.head == top]
        if top == extra and writers.local is not None:
            sites.append(writers.local)
        holders[top] = sites
    return holders


def _sort_errors(errors: Mapping[str, DalError], tally: Tally) -> None:
    """Tell who failed from who only has to be looked at again."""
    for name, error in errors.items():
        if isinstance(error, (Diverged, AlreadyThere)):
            continue  # somebody else was here meanwhile
        if isinstance(error, Conflict):
            tally.frozen[name] = error
        elif isinstance(error, NoSource):
            # The next poll may find another source, or that there is none.
            tally.unserved[name] = tally.unserved.get(name, 0) + 1
            if tally.unserved[name] >= SOURCE_TRIES_MAX:
                tally.failed[name] = error
        else:
            tally.failed[name] = error


def _bring_clones(
    writers: Writers, patterns: Mapping[str, str], states: Mapping[str, VolumeState], tally: Tally
) -> bool:
    """Take one step towards one set of clones; return False when all have it."""
    plan = plan_clones(states, patterns=patterns)
    if not plan.steps:
        return False
    for entry in plan.renamed:
        if entry not in tally.renamed:
            tally.renamed.append(entry)
            writers.context.report(
                Note(
                    severity="note",
                    path=writers.volume.encode(errors="surrogateescape"),
                    text=f"clone {writers.volume}@{entry[0]} means two states: the later one is now @{entry[1]}",
                )
            )
    sources = [(writers.site(name), state) for name, state in states.items()]

    def bring(site: Site) -> Transferred:
        state = states[site.name]
        return bring_clones(
            writers.volume,
            plan.steps[site.name],
            to=site,
            bases=[*own_bases(state), *([state.common] if state.common else [])],
            sources=sources,
            report=writers.context.report,
        )

    results, errors = writers.each(sorted(plan.steps), bring)
    for name, done in results.items():
        tally.add(name, done)
    _sort_errors(errors, tally)
    return True


def _agree(writers: Writers, polled: WriterPoll) -> None:
    """Tell all writers, who all answered and have one head, that they have."""
    if len(polled.heads) != 1:
        return
    head = next(iter(polled.heads))
    forget = plan_clones(polled.states, patterns=polled.replicas.clones).forget
    behind = sorted(name for name, state in polled.states.items() if forget or state.common != head)
    if behind and polled.replicas.version:
        # Nothing is lost by a server that does not hear it: it keeps more than it needs to until the next time.
        writers.each(behind, lambda site: site.agree(writers.volume, head, uncloned=forget))
