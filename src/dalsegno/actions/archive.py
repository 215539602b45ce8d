"""Copy dumps to archive targets outside the cycle: by hand, after a medium was lost, from the shares that are left."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from dalsegno.actions.catalog import entry_of, read_lineage
from dalsegno.actions.retrieve import media_here, plan_retrieve, retrieve, say_bad_labels
from dalsegno.archive.installation import Installation
from dalsegno.archive.labels import write_label
from dalsegno.archive.scan import scanned_whole
from dalsegno.archive.targets import Incomplete
from dalsegno.backup.chains import State
from dalsegno.backup.policy import CommandPolicy, SharesPolicy
from dalsegno.backup.records import (
    GOOD,
    MEDIUM_ACTIVE,
    MEDIUM_LOST,
    MISSING,
    SPOOL_TARGET,
    UNKNOWN,
    Copy,
    DumpEntry,
    Earlier,
    Medium,
    group_copies,
    usable_copies,
)
from dalsegno.backup.targets import is_complete, targets_of
from dalsegno.chunks.realm import Realm
from dalsegno.terms.errors import BadInput, DalError, NotFound, Refused, Unavailable
from dalsegno.terms.events import Note, Report, silent
from dalsegno.world.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """One dump that was copied, or what hindered it."""

    entry: DumpEntry
    target: str
    copies: tuple[Copy, ...] = ()
    error: str = ""
    error_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumFacts:
    """A medium, as catalog and drives know it."""

    medium: Medium
    is_here: bool
    file_count: int = 0
    stored_bytes: int = 0
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class Wanted:
    """A dump that a target should hold and does not, wholly."""

    entry: DumpEntry
    target: str
    copies: list[Copy] = field(default_factory=list)


def entry_of_file(path: Path, realm: Realm, *, report: Report = silent) -> tuple[DumpEntry, tuple[Earlier, ...]]:
    """Return what the catalog says about a dump file; its digest is computed."""
    header = scanned_whole(path, name=path.name, report=report)
    return entry_of(header, read_lineage(header, realm))


def find_wanted(site: Installation, names: Sequence[str] = (), *, report: Report = silent) -> list[Wanted]:
    """Return which dumps are not in as many copies, or shares, as the policy says; of these targets when named."""
    for name in names:
        site.target(name)
    say_bad_labels(site, report)
    here = media_here(site, report=report)
    entries = site.catalog.dumps()
    copies = site.catalog.copies_of(entry.dump_id for entry in entries)
    found = []
    for entry in entries:
        known = copies.get(entry.dump_id, [])
        for name in targets_of(site.policy, entry, known):
            own = [copy for copy in known if copy.target == name]
            if (not names or name in names) and not is_complete(site.policy.targets[name], own, here.get(name, set())):
                found.append(Wanted(entry=entry, target=name, copies=own))
    return found


def can_take(site: Installation, wanted: Wanted) -> bool:
    """Tell whether media are here that have room for what is missing, and hold nothing of it yet."""
    policy, size_bytes = site.policy.targets[wanted.target], wanted.entry.size_bytes
    if isinstance(policy, CommandPolicy):
        return True
    try:
        present = site.target(wanted.target).present()
    except DalError:
        return False
    held = {copy.medium for copy in wanted.copies if copy.is_usable}
    rooms = [medium.capacity_bytes - medium.used_bytes for medium in present if medium.label not in held]
    if isinstance(policy, SharesPolicy):
        return any(room * policy.k > size_bytes for room in rooms)
    return sum(rooms) > size_bytes


def archive_wanted(site: Installation, wanted: Sequence[Wanted], *, report: Report = silent) -> list[Archived]:
    """Make the copies and shares that are missing; each dump comes from the spool, or from another copy."""
    return [
        _archive(site, each.entry, each.target, partial(_repair_or_store, site, each, report=report)) for each in wanted
    ]


def _archive(site: Installation, entry: DumpEntry, target: str, make: Callable[[], list[Copy]]) -> Archived:
    """Return the copies that `make` stored in a target, or why not; what an incomplete store made is recorded."""
    try:
        copies = make()
    except Incomplete as error:
        site.catalog.put_copies(error.copies)
        code = error.exit_code
        return Archived(entry=entry, target=target, copies=tuple(error.copies), error=str(error), error_code=code)
    except DalError as error:
        return Archived(entry=entry, target=target, error=str(error), error_code=error.exit_code)
    return Archived(entry=entry, target=target, copies=tuple(copies))


def _repair_or_store(site: Installation, wanted: Wanted, *, report: Report) -> list[Copy]:
    target, entry = site.target(wanted.target), wanted.entry
    usable = [copy for copy in wanted.copies if copy.is_usable]
    if target.kind == "shares" and usable_copies(usable):
        made = target.repair(usable, entry, now_ns=now_ns(), report=report)
    else:
        state = State(chain=(entry,), revision=entry.revision)
        plan = plan_retrieve(site, state, report=report)
        fetched = retrieve(site, plan, in_place=True, report=report)
        source = fetched.places[0]
        if not isinstance(source, Path):  # slices or shares: they are put together first
            source.close()
            fetched = retrieve(site, plan, report=report)
            source = fetched.paths[0]
        made = target.store(source, entry, now_ns=now_ns(), report=report)
        site.spool.forget_fetched(list(fetched.fetched))
        numbers = {copy.number for copy in made}
        for stale in wanted.copies:
            if stale.number in numbers and (stale.number, stale.part) not in {(c.number, c.part) for c in made}:
                site.catalog.remove_copy(stale)
    site.catalog.put_copies(made)
    see_media(site)
    return made


def archive_file(
    site: Installation, path: Path, realm: Realm, *, names: Sequence[str] = (), report: Report = silent
) -> list[Archived]:
    """Copy a dump file to targets (all, unless some are named) and take it into the catalog."""
    entry, earlier = entry_of_file(path, realm, report=report)
    known = site.catalog.get_dump(entry.dump_id)
    at_ns = now_ns()
    entry = known if known is not None else replace(entry, received_at_ns=at_ns)
    if known is None:
        site.catalog.put_dump(entry, earlier=earlier)
    done = []
    for name in names or list(site.targets):
        made = _archive(site, entry, name, partial(_store, site, path, entry, name, report=report))
        if not made.error:
            site.catalog.put_copies(made.copies)
        done.append(made)
    see_media(site)
    return done


def _store(site: Installation, path: Path, entry: DumpEntry, target: str, *, report: Report) -> list[Copy]:
    return site.target(target).store(path, entry, now_ns=now_ns(), report=report)


def see_media(site: Installation) -> None:
    """Write down which media are here, and when they were seen."""
    at_ns = now_ns()
    for target in site.targets.values():
        for medium in target.present():
            known = site.catalog.get_medium(medium.label)
            first = known.first_used_ns if known is not None else at_ns
            state = known.state if known is not None and known.id == medium.id else medium.state
            site.catalog.put_medium(replace(medium, first_used_ns=first, last_seen_ns=at_ns, state=state))


def list_media(site: Installation, *, report: Report = silent) -> list[MediumFacts]:
    """Return every medium that the catalog knows or a drive holds, by target and label."""
    known = {medium.label: medium for medium in site.catalog.media()}
    used = site.catalog.labels()
    say_bad_labels(site, report)
    facts: dict[str, MediumFacts] = {}
    for name, target in site.targets.items():
        try:
            present = target.present()
        except DalError as error:
            report(Note(severity="error", path=os.fsencode(name), text=str(error)))
            continue
        for medium in present:
            before = known.get(medium.label)
            problem = ""
            if before is not None and before.id and before.id != medium.id:
                problem = "another medium of this label was used before"
            state = before.state if before is not None and not problem else medium.state
            first = before.first_used_ns if before is not None else 0
            medium = replace(medium, state=state, first_used_ns=first, last_seen_ns=now_ns())
            facts[medium.label] = MediumFacts(medium=medium, is_here=True, problem=problem)
    for label, (target_name, _, _) in used.items():
        if label not in known and label != SPOOL_TARGET:
            known[label] = Medium(label=label, target=target_name, kind="")
    for label, medium in known.items():
        facts.setdefault(label, MediumFacts(medium=medium, is_here=False))
    return [
        replace(each, file_count=used.get(label, ("", 0, 0))[1], stored_bytes=used.get(label, ("", 0, 0))[2])
        for label, each in sorted(facts.items(), key=lambda item: (item[1].medium.target, item[0]))
    ]


def label_medium(site: Installation, path: Path, label: str, *, target: str) -> Medium:
    """Label what is mounted at `path` for a target, and take it into the catalog."""
    policy = site.policy.targets.get(target)
    if policy is None:
        site.target(target)
    assert policy is not None
    if isinstance(policy, CommandPolicy):
        raise BadInput(f"target {target}: its media are behind a program: label them there")
    if path.absolute() not in [each.absolute() for each in policy.paths]:
        known = ", ".join(map(str, policy.paths))
        raise BadInput(f"{path}: target {target} looks for media at {known}: mount it there, or add the place")
    used = site.catalog.get_medium(label)
    if used is not None and used.state != MEDIUM_LOST:
        raise BadInput(f"label {label!r}: a medium of target {used.target!r} has it: choose another")
    if policy.labels and not any(fnmatchcase(label, pattern) for pattern in policy.labels):
        raise BadInput(f"label {label!r}: target {target} expects {' or '.join(policy.labels)}")
    write_label(path, label=label, target=target, kind=policy.kind, now_ns=now_ns())
    opened = site.target(target)
    made = next((medium for medium in opened.present() if medium.label == label), None)
    if made is None:
        for bad in opened.bad_labels():
            raise bad.error
        raise Unavailable(
            f"{path}: the label is written and cannot be read back: `dal catalog rebuild --add` takes it in"
        )
    made = replace(made, first_used_ns=now_ns(), last_seen_ns=now_ns())
    site.catalog.put_medium(made)
    return made


def lose_medium(site: Installation, label: str) -> list[DumpEntry]:
    """Say that a medium is gone for good: nothing on it counts; return the dumps that have no usable copy left."""
    medium = site.catalog.get_medium(label)
    copies = site.catalog.copies_on(label)
    if medium is None and not copies:
        raise NotFound(f"no medium {label!r} in the catalog: `dal media list` shows what there is")
    at_ns = now_ns()
    site.catalog.put_copies([replace(copy, verdict=MISSING, checked_at_ns=at_ns) for copy in copies])
    if medium is not None:
        site.catalog.put_medium(replace(medium, state=MEDIUM_LOST))
    left = site.catalog.copies_of(copy.dump_id for copy in copies)
    lost = []
    for dump_id, rest in left.items():
        entry = site.catalog.get_dump(dump_id)
        if entry is not None and not usable_copies(rest):
            lost.append(entry)
    return lost


def find_medium(site: Installation, label: str) -> int:
    """Take back a medium that was said to be lost: return how many of its files count again, once they are checked."""
    medium = site.catalog.get_medium(label)
    if medium is None:
        raise NotFound(f"no medium {label!r} in the catalog: `dal media list` shows what there is")
    if medium.state != MEDIUM_LOST:
        raise Refused(f"medium {label!r}: nobody said that it is lost")
    copies = [copy for copy in site.catalog.copies_on(label) if copy.verdict == MISSING]
    site.catalog.put_copies([replace(copy, verdict=UNKNOWN) for copy in copies])
    site.catalog.put_medium(replace(medium, state=MEDIUM_ACTIVE))
    return len(copies)


def copies_text(copies: Iterable[Copy]) -> list[str]:
    """Return where a dump is, in words: `disks: week-1`, `grid: 5 of 5 shares (3 needed)`."""
    words = []
    for (target, _), parts in group_copies(copies).items():
        usable = [copy for copy in parts if copy.is_usable]
        labels = ", ".join(dict.fromkeys(copy.medium for copy in usable)) or "nothing left"
        first = parts[0]
        if target == SPOOL_TARGET:
            words.append("spool" if usable else "gone from the spool")
        elif first.parts > first.needed:
            words.append(f"{target}: {len(usable)} of {first.parts} shares ({first.needed} needed)")
        elif first.parts > 1:
            gaps = "" if len(usable) == first.parts else f", {first.parts - len(usable)} slices are gone"
            words.append(f"{target}: {first.parts} slices on {labels}{gaps}")
        elif usable and usable[0].verdict == GOOD:
            words.append(target if target == first.medium else f"{target}: {labels}")
        else:
            place = target if target == first.medium else f"{target}: {first.medium}"
            words.append(f"{place} ({first.verdict or 'not checked'})")
    return words
