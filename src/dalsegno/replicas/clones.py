"""The clones of a volume on several servers: one set for all, told by name, revision and time.

What one server has, all get; what was uncloned on one goes from all, unless another one holds it; a name that means two
clones on two servers keeps the older one, and the other gets a name of its own: never is one name silently two things.
Decided here, from states; `bring_clones` does it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import msgspec

from dalsegno.replicas.contract import Site
from dalsegno.replicas.histories import kept
from dalsegno.replicas.transfer import GIVES_UP_ON, Transferred, bring
from dalsegno.terms.errors import NotFound, Unavailable
from dalsegno.terms.events import Report, silent
from dalsegno.terms.ids import hex_short
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.state import VolumeState

UNCLONED_KEPT_MAX: Final = 64
"""So many removed clones are remembered though every writer knows: what is done late brings none of them back."""
STEPS_AT_ONCE: Final = 1000
BASES_MAX: Final = 64
"""So many clones are compared with, where something new is to be sent."""
_SUFFIX_DIGITS: Final = (8, 16, 64)

Identity = tuple[bytes, int]
"""What tells a clone from another of its name: revision and time."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Make a clone."""

    name: str
    clone: Clone


@dataclass(frozen=True, slots=True)
class Drop:
    """Remove a clone, and remember that unless it goes `here_only`."""

    name: str
    clone: Clone
    here_only: bool = False


Step = Keep | Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class ClonePlan:
    """What makes the clones of some servers alike."""

    clones: dict[str, Clone]
    """What the volume's clones are, as far as they were looked at: all, or those that are not alike everywhere."""
    steps: dict[str, list[Step]]
    """Server: what it must do, in order; servers with nothing to do are not in it."""
    renamed: list[tuple[str, str, Clone]] = field(default_factory=list)
    """(name, new name, clone): it shared its name with an older one."""
    forget: dict[str, list[Clone]] = field(default_factory=dict)
    """Removed clones that every one of the servers knows of, beyond those that are remembered in any case."""


def own_bases(state: VolumeState) -> list[bytes]:
    """Return what a replica certainly has whole, for others to build on: its head and its newest clones."""
    newest = (clone.revision for _, clone in islice(state.clones.newest_first(), BASES_MAX))
    return [base for base in dict.fromkeys([state.head, *newest]) if base]


def identity(clone: Clone) -> Identity:
    """Return what tells `clone` from others of its name."""
    return clone.revision, clone.created_ns


def _order(clone: Clone) -> tuple[int, bytes]:
    return clone.created_ns, clone.revision


def plan_clones(
    states: Mapping[str, VolumeState], *, patterns: Mapping[str, str] | None = None, everything: bool = False
) -> ClonePlan:
    """Decide what the clones are and what each server lacks. The same states give the same plan everywhere.

    Where all servers keep all clones, only those are looked at that are not alike on all, unless `everything` is
    wanted: what that costs follows the differences.
    """
    patterns = patterns or {}
    looked = (
        {server: dict(state.clones.items()) for server, state in states.items()}
        if (everything or any(patterns.get(server) for server in states))
        else _unlike(states)
    )
    gone: dict[str, dict[Identity, Clone]] = {}
    for state in states.values():
        for name, removed in state.uncloned.items():
            gone.setdefault(name, {}).update((identity(clone), clone) for clone in removed)
    found: dict[str, dict[Identity, Clone]] = {}
    for own in looked.values():
        for name, clone in own.items():
            while clone.held and identity(clone) in gone.get(name, ()):
                # Uncloned in one place, held in another: it stays, told from the one that went by its time.
                gone[name][identity(clone)] = clone
                clone = msgspec.structs.replace(clone, created_ns=clone.created_ns + 1)
            if identity(clone) not in gone.get(name, ()):
                known = found.setdefault(name, {}).get(identity(clone))
                if known is None or (clone.held and not known.held):
                    found[name][identity(clone)] = clone
    clones, lost, renamed = _settle_names(found, alike=next(iter(states.values())).clones if states else {})
    for name, clone in lost:
        gone.setdefault(name, {})[identity(clone)] = clone
    steps = {}
    for server, state in states.items():
        todo = _steps_of(state, looked[server], clones, gone, wanted=kept(patterns.get(server), clones))
        if todo:
            steps[server] = todo
    return ClonePlan(clones=clones, steps=steps, renamed=renamed, forget=_known_to_all(states.values(), found))


def _unlike(states: Mapping[str, VolumeState]) -> dict[str, dict[str, Clone]]:
    """Return for each server those of its clones that are not the same on all, or were removed on some of them."""
    each = list(states.values())
    names: set[str] = set()
    for other in each[1:]:
        names |= each[0].clones.differing(other.clones)
    # What all know that it was removed is nowhere: no server takes it back, or has it beside the note.
    noted = [
        {(name, identity(clone)) for name, removed in state.uncloned.items() for clone in removed} for state in each
    ]
    known_to_all = set.intersection(*noted) if noted else set()
    names |= {name for tags in noted for name, _ in tags - known_to_all}
    return {
        server: {name: clone for name in names if (clone := state.clones.get(name)) is not None}
        for server, state in states.items()
    }


def _settle_names(
    found: Mapping[str, Mapping[Identity, Clone]], *, alike: Mapping[str, Clone]
) -> tuple[dict[str, Clone], list[tuple[str, Clone]], list[tuple[str, str, Clone]]]:
    clones: dict[str, Clone] = {}
    lost: list[tuple[str, Clone]] = []
    moving: list[tuple[str, Clone]] = []
    for name in sorted(found):
        first: Clone | None = None
        revisions: dict[bytes, Clone] = {}
        for clone in sorted(found[name].values(), key=_order):
            first = first or clone
            same = revisions.get(clone.revision)
            if same is None:
                revisions[clone.revision] = clone
                if clone is not first:
                    moving.append((name, clone))
                continue
            # One name, one revision, cloned twice: nothing is lost but a time.
            lost.append((name, clone))
            if clone.held and not same.held:
                revisions[clone.revision] = msgspec.structs.replace(same, held=True)
        assert first is not None
        clones[name] = revisions[first.revision]
    renamed = []
    for name, clone in moving:
        for digits in _SUFFIX_DIGITS:
            new_name = f"{name}-{clone.revision.hex()[:digits]}"
            taken = clones.get(new_name) or alike.get(new_name)
            if taken is None or identity(taken) == identity(clone):
                break
        if taken is None:
            clones[new_name] = clone
        renamed.append((name, new_name, clone))
        lost.append((name, clone))
    return clones, lost, renamed


def _steps_of(
    state: VolumeState,
    looked: Mapping[str, Clone],
    clones: Mapping[str, Clone],
    gone: Mapping[str, Mapping[Identity, Clone]],
    *,
    wanted: set[str],
) -> list[Step]:
    early: list[Step] = []
    drops: list[Step] = []
    late: list[Step] = []
    for name in sorted(wanted):
        clone, own = clones[name], looked.get(name)
        if own is None:
            # Before anything goes, so that a clone that gets another name is never without one.
            early.append(Keep(name, clone))
        elif identity(own) != identity(clone) or (clone.held and not own.held):
            late.append(Keep(name, clone))
    for name in sorted(gone):
        known = {identity(clone) for clone in state.uncloned.get(name, ())}
        for tag in sorted(gone[name]):
            own = looked.get(name)
            if own is not None and identity(own) == tag:
                drops.append(Drop(name, own))
            elif tag not in known:
                drops.append(Drop(name, gone[name][tag]))
    for name, own in sorted(looked.items()):
        if name not in wanted and identity(own) not in gone.get(name, ()):
            drops.append(Drop(name, own, here_only=True))
    return early + drops + late


def _known_to_all(
    states: Iterable[VolumeState], found: Mapping[str, Mapping[Identity, Clone]]
) -> dict[str, list[Clone]]:
    common: set[tuple[str, Identity]] | None = None
    by_tag: dict[tuple[str, Identity], Clone] = {}
    for state in states:
        tags = set()
        for name, clones in state.uncloned.items():
            for clone in clones:
                tags.add((name, identity(clone)))
                by_tag[name, identity(clone)] = clone
        common = tags if common is None else common & tags
    done = sorted(common or (), key=lambda tag: (tag[1][1], tag))
    forget: dict[str, list[Clone]] = {}
    for tag in done[: max(0, len(done) - UNCLONED_KEPT_MAX)]:
        forget.setdefault(tag[0], []).append(by_tag[tag])
    return forget


def mirror_clones(state: VolumeState, of: VolumeState, *, pattern: str | None = None) -> list[Step]:
    """Return what makes the clones of a server that only follows those `of` another; nothing of its own counts."""
    wanted = kept(pattern, of.clones)
    steps: list[Step] = []
    for name, own in sorted(state.clones.items()):
        if name not in wanted or identity(of.clones[name]) != identity(own):
            steps.append(Drop(name, own, here_only=True))
    for name in sorted(wanted):
        own_clone = state.clones.get(name)
        if own_clone is None or identity(own_clone) != identity(of.clones[name]):
            steps.append(Keep(name, of.clones[name]))
    return steps


def bring_clones(
    volume: str,
    steps: Sequence[Step],
    *,
    to: Site,
    bases: Sequence[bytes],
    sources: Sequence[tuple[Site, VolumeState]],
    report: Report = silent,
) -> Transferred:
    """Do `steps` at one server; what a clone names is copied from a source that has the clone."""
    done = Transferred()
    for start in range(0, len(steps), STEPS_AT_ONCE):
        some = steps[start : start + STEPS_AT_ONCE]
        names = {step.clone.revision: step.name for step in some if isinstance(step, Keep)}
        if names:
            wanted = sorted(names)
            answer = to.have(volume, b"".join(wanted))
            lacking = {revision: names[revision] for revision, there in zip(wanted, answer, strict=True) if not there}
            for holders, revisions in _share_out(lacking, sources, to=to):
                done += bring_from_any(volume, revisions, bases, sources=holders, to=to, report=report)
        for step in some:
            if isinstance(step, Keep):
                to.clone(volume, step.name, step.clone)
            else:
                to.unclone(volume, step.name, step.clone, here_only=step.here_only)
    return done


def _share_out(
    wanted: Mapping[bytes, str], sources: Sequence[tuple[Site, VolumeState]], *, to: Site
) -> list[tuple[list[Site], list[bytes]]]:
    """Return which servers have which revisions whole; with each comes the name that it is to have."""
    shares: dict[tuple[str, ...], tuple[list[Site], list[bytes]]] = {}
    others = [(site, state) for site, state in sources if site.name != to.name]
    named: dict[str, set[bytes]] = {}

    def names_it(site: Site, state: VolumeState, revision: bytes) -> bool:
        known = state.clones.get(wanted[revision])
        if revision == state.head or (known is not None and known.revision == revision):
            return True
        if site.name not in named:  # it may have another name there
            named[site.name] = {clone.revision for clone in state.clones.values()}
        return revision in named[site.name]

    for revision in wanted:
        holders = [site for site, state in others if names_it(site, state, revision)]
        if not holders:
            raise NotFound(f"clone of revision {hex_short(revision)}: no server that answers has the clone")
        shares.setdefault(tuple(site.name for site in holders), (holders, []))[1].append(revision)
    return list(shares.values())


class NoSource(Unavailable):
    """None of the servers that hold a revision could give it; the cause says why. Who wanted it is well."""

    code = "no-source"


def bring_from_any(
    volume: str,
    targets: Sequence[bytes],
    bases: Sequence[bytes],
    *,
    sources: Sequence[Site],
    to: Site,
    report: Report,
) -> Transferred:
    """Make `targets` whole at `to` from whichever source can; NoSource when none of them can."""
    try:
        return bring(volume, targets, bases, sources=sources, to=to, report=report)
    except GIVES_UP_ON as error:
        to.state(volume)  # raises when it is the target that is away
        raise NoSource(str(error)) from error
