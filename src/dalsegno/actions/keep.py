"""Keep house: collect what nothing names, check the pool, count."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from dalsegno.actions.heal import LostFiles, is_whole
from dalsegno.actions.session import House
from dalsegno.formats.objects import KIND_CHUNK, KIND_DIRECTORY, KIND_REVISION, Revision
from dalsegno.host.cache import SCAN_SUFFIX, is_left_behind
from dalsegno.pool.adopt import Standing
from dalsegno.pool.check import Finding, check_pool, only_copies
from dalsegno.pool.collect import GRACE_SECONDS_DEFAULT, SECOND_NS, CollectResult, collect
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.generations import refuse_old_seals
from dalsegno.pool.pool import Pool
from dalsegno.terms.counts import count_of
from dalsegno.terms.errors import Conflict, DalError, Damaged, NoAccess, NotFound
from dalsegno.terms.events import Note
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.trees.closure import visit_reachable
from dalsegno.trees.read import read_revision
from dalsegno.volumes.ancestry import find_revision
from dalsegno.volumes.records import bases_kept
from dalsegno.volumes.signed import signature_problem
from dalsegno.volumes.state import VolumeState
from dalsegno.volumes.store import table_roots
from dalsegno.world.clock import now_ns, real_now_ns, ticks_ns
from dalsegno.world.files import file_size

PATHS_NAMED_MAX: Final = 20
VERIFY_TURNS_MAX: Final = 5
CACHE_UNUSED_NS_MAX: Final = 180 * 24 * 3600 * SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Sizes and counts of a pool."""

    path: str
    pool_id: bytes
    encryption: str
    volume_count: int
    clone_count: int
    pack_count: int
    pack_bytes: int
    object_count: int
    """Objects in packs that stay, but for those that the last collection found dead."""
    index_bytes: int
    protected_bytes: int
    """Bytes of files in the newest state of every volume."""


def collect_within(
    house: House, *, budget_seconds: float, grace_seconds: int = GRACE_SECONDS_DEFAULT
) -> CollectResult | None:
    """Collect for about so long, as a nightly run does; None when another collection is running.

    What is wholly dead is condemned and deleted in any case, which takes moments; half-dead packs are written again
    while there is time, at least one batch of them each night, and `left` says how many wait for the next run.
    Marking takes the time of reading all directories, whatever the budget. Damaged when a revision cannot be read.
    """
    try:
        return gc(house, grace_seconds=grace_seconds, budget_seconds=budget_seconds)
    except Conflict:
        return None


def gc(
    house: House, *, grace_seconds: int, dry_run: bool = False, budget_seconds: float | None = None
) -> CollectResult:
    """Give back the room of what no head, clone or dump record names. Never stops writers.

    After `budget_seconds` half-dead packs are written again no longer; what is wholly dead goes all the same.
    """
    started_ns = ticks_ns()

    def live() -> Iterator[bytes]:
        # Called after the packs were listed: refs are read anew here.
        house.pool.refresh()
        seen = PoolMarks(house.pool)

        def visit(kind: int, identity: bytes) -> bool:
            if kind == KIND_CHUNK:
                seen.add_later(identity)
                return False
            return seen.add(identity)

        # A revision that cannot be read stops the collection: nobody knows what it would have kept.
        try:
            tops = sorted(set(house.volumes.revisions_kept(now_ns=now_ns())))
            tables = [(KIND_DIRECTORY, root) for root in house.volumes.tables_kept()]
        except Damaged as error:
            raise Damaged(f"{error}; nothing was collected") from None
        try:
            visit_reachable(house.pool, [*((KIND_REVISION, top) for top in tops), *tables], visit)
        except (NotFound, Damaged) as error:
            raise Damaged(f"{error}; nothing was collected: {_what_to_let_go(house)}") from None
        _see_history(house, seen, visit)
        yield from seen.ids()

    if not dry_run:
        house.volumes.drop_ended_pins(now_ns=now_ns())
    result = collect(
        house.pool,
        live,
        grace_seconds=grace_seconds,
        now_ns=now_ns(),
        dry_run=dry_run,
        report=house.report,
        more=lambda: budget_seconds is None or ticks_ns() - started_ns < budget_seconds * SECOND_NS,
    )
    if not dry_run:
        refuse_old_seals(house.pool)
        sweep_caches(house)
    return result


def sweep_caches(house: House) -> int:
    """Remove this user's scan caches of volumes that are gone, and those of pools unused for half a year.

    Return how many files went. A scan cache that is missed is made again: the next backup reads everything once.
    """
    known = {state.id.hex() for state in house.volumes.list()}
    old_ns = real_now_ns() - CACHE_UNUSED_NS_MAX
    swept = 0
    for path in house.cache_dir.parent.glob("*/*" + SCAN_SUFFIX + "*"):
        volume_id = path.name.partition(".")[0]
        try:
            if path.parent == house.cache_dir:
                gone = volume_id not in known or is_left_behind(path)
            else:
                gone = path.stat().st_mtime_ns < old_ns
            if gone:
                path.unlink()
                swept += 1
        except OSError:
            continue  # another's, or gone meanwhile
    return swept


def _what_to_let_go(house: House) -> str:
    """Return what to do about states whose directories are lost: nobody knows what else they would have kept."""
    named = [label for label, revision in _states(house) if not is_whole(house.pool, revision) and " " not in label]
    if not named:
        return "`dal verify --pool` tells which volumes need it"
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return (
        f"{', '.join(named[:3])}{more} cannot be read whole: back up again, then let go of it: `dal unclone {named[0]}`"
    )


def _see_history(house: House, seen: PoolMarks, visit: Callable[[int, bytes], bool]) -> None:
    """Mark the past of replicated volumes: trees where they are whole, else the revision alone."""
    standing = Standing(house.pool)
    for revision in house.volumes.history_kept():
        if standing.is_whole(revision):
            visit_reachable(house.pool, [(KIND_REVISION, revision)], visit)
        elif house.pool.has(ObjectId(revision)):
            seen.add(revision)
            for identity in _find_whole(house, seen, revision):
                seen.add(identity)


def _find_whole(house: House, seen: PoolMarks, revision: bytes) -> set[bytes]:
    """Return what must be marked beside `seen` to keep a revision's tree; nothing when it is not all here."""
    found: set[bytes] = set()

    def visit(kind: int, identity: bytes) -> bool:
        if identity in found or (identity in seen and kind != KIND_REVISION):
            return False
        if not house.pool.has(ObjectId(identity)):
            raise NotFound(f"object {hex_short(identity)}")
        found.add(identity)
        return True

    try:
        visit_reachable(house.pool, [(KIND_REVISION, revision)], visit)
    except NotFound:
        return set()
    return found


def verify_pool(house: House) -> Iterator[Finding]:
    """Yield all that is wrong with the pool: packs, index, refs, and that every volume's objects are there.

    What is damaged is noted in the pool, so that the next backup stores it again.
    """
    pool = house.pool
    found = list(check_pool(pool, house.report))
    # Others commit and collect meanwhile. What is missing counts only if it still is, of what is still named, by an
    # index that is newer than the names.
    for turn in range(VERIFY_TURNS_MAX):
        states = list(_states(house))
        pool.refresh()
        seen, missing, broken = _visit_states(pool, states, house.volumes.tables_kept())
        if not missing and not broken:
            break
        if turn and states == list(_states(house)):
            break
    yield from _without_unneeded(pool, found, seen)
    yield from _table_findings(house)
    yield from _signature_findings(pool, states)
    if not missing and not broken and not pool.losses.notes:
        return
    if missing or pool.is_damage_new:
        with suppress(NoAccess):
            pool.look_for_unsound()
    yield from _name_lost(house, states, broken)


def _signature_findings(pool: Pool, states: Iterable[tuple[str, bytes]]) -> Iterator[Finding]:
    """Yield which of the (label, revision) pairs have signatures that are not genuine."""
    problems: dict[bytes, str | None] = {}
    for label, identity in states:
        if identity not in problems:
            revision = find_revision(pool, identity)
            problems[identity] = signature_problem(revision) if revision is not None else None
        if (problem := problems[identity]) is not None:
            yield Finding(severity="error", where=label, text=f"revision {hex_short(identity)}: {problem}")


def _visit_states(
    pool: Pool, states: list[tuple[str, bytes]], tables: Iterable[bytes]
) -> tuple[PoolMarks, list[bytes], dict[str, str]]:
    """Return all that (label, revision) pairs and tables of clones reach, what of it is not there, and by label what
    could not be read."""
    seen = PoolMarks(pool)
    missing: list[bytes] = []

    def visit(kind: int, identity: bytes) -> bool:
        if not seen.add(identity):
            return False
        if not pool.has(ObjectId(identity)):
            missing.append(identity)
            return False
        return True

    broken = {}
    for label, revision in states:
        try:
            visit_reachable(pool, [(KIND_REVISION, revision)], visit)
        except DalError as error:
            broken[label] = str(error)
    for root in tables:
        with suppress(DalError):  # told by whoever reads the clones
            visit_reachable(pool, [(KIND_DIRECTORY, root)], visit)
    return seen, missing, broken


def _table_findings(house: House) -> Iterator[Finding]:
    """Yield a finding for each table of a volume that cannot be read whole."""
    for state in house.volumes.list():
        clones, errors = state.clones.salvage()
        if errors:
            lost = len(state.clones) - len(clones)
            what = f"{count_of(lost, 'clone')} cannot be read any more" if lost else "each clone is in it elsewhere"
            text = f"the table of its clones is damaged: {errors[0]}; {what}: `dal volume mend {state.name}`"
            yield Finding(severity="error", where=state.name, text=text)
        records, errors = state.dumps.salvage()
        if errors:
            what = f"{count_of(len(state.dumps) - len(records), 'recorded dump')} cannot be read any more"
            text = f"the table of its dumps is damaged: {errors[0]}; {what}: `dal volume mend {state.name}`"
            yield Finding(severity="error", where=state.name, text=text)


def _states(house: House) -> Iterator[tuple[str, bytes]]:
    """Yield (label, revision) of every clone, of heads that no clone names, and of what is kept for later dumps."""
    for state in house.volumes.list():
        states = {clone.revision: f"{state.name}@{name}" for name, clone in state.clones.salvage()[0]}
        if state.head:
            states.setdefault(state.head, f"{state.name}@latest")
        for record in bases_kept(state.dumps.salvage()[0]):
            states.setdefault(record.revision, f"{state.name}, base of level {record.level}")
        for revision, label in states.items():
            yield label, revision


def _without_unneeded(pool: Pool, found: list[Finding], seen: PoolMarks) -> Iterator[Finding]:
    """Yield findings; those about damage that nothing needed rests on any more become notes."""
    harmless = {
        pool.where_pack(pack_id)
        for pack_id in pool.losses.notes.packs
        if not seen.holds(only_copies(pool, pack_id)).any()
    }
    for finding in found:
        if finding.severity == "error" and finding.where in harmless:
            text = (
                f"{finding.text}; nothing needs what was there any more, or it is stored elsewhere: `dal gc` removes it"
            )
            yield replace(finding, severity="note", text=text)
        else:
            yield finding


def _name_lost(house: House, states: list[tuple[str, bytes]], broken: dict[str, str]) -> Iterator[Finding]:
    """Yield a finding for each clone that lacks files, with their names."""
    lost = LostFiles(house.pool)
    for label, identity in states:
        try:
            paths = tuple(lost.paths(read_revision(house.pool, identity)))
        except DalError as error:
            yield Finding(severity="error", where=label, text=f"cannot be read at all: {error}")
            continue
        if paths:
            named = ", ".join(os.fsdecode(path) for path in paths[:PATHS_NAMED_MAX])
            if len(paths) > PATHS_NAMED_MAX:
                named += f", and {len(paths) - PATHS_NAMED_MAX:,} more (all with --json)"
            files = "1 file cannot be read" if len(paths) == 1 else f"{len(paths):,} files cannot be read"
            text = f"{files}: {named}; back up again: what the source still has is stored again"
            yield Finding(severity="error", where=label, text=text, paths=paths)
        elif label in broken:
            yield Finding(severity="error", where=label, text=broken[label])


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSize:
    """What there is of a volume, without reading its directories."""

    clone_count: int
    revision_count: int
    """From the head back, as far as they are here, and those that only clones name."""
    entry_count: int
    total_bytes: int
    """Files and bytes of the newest state."""


def volume_size(house: House, state: VolumeState) -> VolumeSize:
    """Count what a volume has."""
    known = {clone.revision for _, clone in state.clones.salvage()[0]}
    newest: Revision | None = None
    with suppress(NotFound, Damaged):
        for identity, revision in house.volumes.log(state):
            newest = newest or revision
            known.add(identity)
    return VolumeSize(
        clone_count=len(state.clones),
        revision_count=len(known),
        entry_count=newest.entry_count if newest else 0,
        total_bytes=newest.total_bytes if newest else 0,
    )


def stats(house: House) -> Stats:
    """Return sizes and counts."""
    pool = house.pool
    states = house.volumes.list()
    packs = pool.pack_entries().values()
    protected = 0
    for state in states:
        revision = find_revision(pool, state.head) if state.head else None
        protected += revision.total_bytes if revision is not None else 0
    index = pool.index.path
    return Stats(
        path=pool.place,
        pool_id=pool.pool_id,
        encryption=pool.encryption,
        volume_count=len(states),
        clone_count=sum(len(state.clones) for state in states),
        pack_count=len(packs),
        pack_bytes=sum(entry.size_bytes for entry in packs),
        object_count=pool.measure()[0],
        index_bytes=sum(file_size(file) for file in index.glob("*")),
        protected_bytes=protected,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStats:
    """What a volume takes."""

    volume: str
    size: VolumeSize
    object_count: int
    raw_bytes: int
    """Of all its states, each object once, before compression."""
    alone_bytes: int
    """Of these, what no other volume needs."""
    alone_stored_bytes: int
    """About how much that is in packs: what comes back when the volume is removed."""


def volume_stats(house: House, name: str) -> VolumeStats:
    """Count what a volume takes. Reads the directories of all volumes, like a collection."""
    pool = house.pool
    pool.refresh()
    state = house.volumes.get(name)
    others, own = PoolMarks(pool), PoolMarks(pool)
    count = raw_bytes = alone_bytes = 0

    def count_it(kind: int, identity: bytes) -> bool:
        nonlocal count, raw_bytes, alone_bytes
        if not own.add(identity):
            return False
        location = pool.index.lookup(identity)
        length = location.length if location is not None else 0
        count += 1
        raw_bytes += length
        alone_bytes += length if others.add(identity) else 0
        return True

    for other in house.volumes.list():
        if other.id != state.id:
            _visit_readable(house, other, lambda kind, identity: others.add(identity))
    _visit_readable(house, state, count_it)
    condemned = pool.read_condemned()
    stored = sum(entry.size_bytes for pack_id, entry in pool.pack_entries().items() if pack_id not in condemned)
    return VolumeStats(
        volume=state.name,
        size=volume_size(house, state),
        object_count=count,
        raw_bytes=raw_bytes,
        alone_bytes=alone_bytes,
        alone_stored_bytes=alone_bytes * stored // max(pool.measure()[1], 1),
    )


def _visit_readable(house: House, state: VolumeState, visit: Callable[[int, bytes], bool]) -> None:
    """Visit all that a volume keeps, state by state; what cannot be read is said and not counted."""
    for top in _tops(state):
        try:
            visit_reachable(house.pool, [top], visit)
        except (Damaged, NotFound) as error:
            label = f"{state.name}#{hex_short(top[1])}".encode(errors="surrogateescape")
            text = f"cannot be read whole, and is not counted: {error}"
            house.report(Note(severity="error", path=label, text=text, is_damage=True))


def _tops(state: VolumeState) -> list[tuple[int, bytes]]:
    """Return what of a volume is kept with all that it names, each once."""
    kept = {state.head, *(clone.revision for _, clone in state.clones.salvage()[0])}
    kept.update(record.revision for record in bases_kept(state.dumps.salvage()[0]))
    trees = [(KIND_DIRECTORY, root) for root in table_roots(state)]
    return [*((KIND_REVISION, revision) for revision in sorted(kept) if revision), *trees]
