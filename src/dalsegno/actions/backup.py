"""Back up: a host directory into its volume's next revision, and a clone of it.

A directory becomes a tracked volume on first use. What did not change since the last revision is not read again.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from dalsegno.actions.heal import Doubts, scan_again_when_damaged
from dalsegno.actions.rules import LeftOut, RulesChange, changed_settings, left_out, rules_of
from dalsegno.actions.session import House, author
from dalsegno.actions.shrunk import entries_expected, keep_shrunk
from dalsegno.actions.sources import Ask, find_or_create, real_source, taken_message
from dalsegno.chunks.cut import Cutter
from dalsegno.formats.objects import INLINE_BYTES_MAX, Coverage, Revision
from dalsegno.host.baseline import Baseline
from dalsegno.host.cache import SCAN_SUFFIX, load_cache
from dalsegno.host.coverage import coverage_of
from dalsegno.host.ignore import IgnoreProblem
from dalsegno.host.scan import ScanOptions, ScanResult, scan_tree
from dalsegno.terms.errors import AlreadyThere, BadInput, DalError, Damaged, NoAccess, NotFound
from dalsegno.terms.events import Note
from dalsegno.trees.read import read_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.shrunk import Shrunk, find_shrunk
from dalsegno.volumes.state import NATIVE, TRACKED, VolumeState
from dalsegno.world import places
from dalsegno.world.clock import now_ns
from dalsegno.world.files import is_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeResult:
    """What taking a directory into a volume did."""

    state: VolumeState
    revision: bytes
    changed: bool
    """False when the tree is that of the revision before: no new one was made."""
    entry_count: int
    total_bytes: int
    files_read: int
    bytes_read: int
    bytes_stored: int
    """Bytes that the pool grew by."""
    unreadable: list[tuple[bytes, str]]
    changed_while_read: list[bytes]
    not_entered: list[tuple[bytes, str]]
    """Directories whose content is left out whatever the rules say, and why: ScanResult says more."""
    missized: list[bytes]
    """Files with more or less content than their size says; what was read is stored."""
    ignore_problems: list[IgnoreProblem]
    """What was not obeyed of ignore files and patterns; nothing is missing for it."""
    socket_count: int
    """Sockets that were met, which no backup holds."""
    shrunk: Shrunk | None
    """Set when the source is empty or has lost most of its files since the backup before: not a good state."""

    @property
    def incomplete(self) -> bool:
        """Whether a person must look: something is missing, or most of it."""
        return bool(self.unreadable) or self.shrunk is not None

    healed: int
    """Directories that rested on something that the pool has lost: read again and stored again."""
    left_out: list[LeftOut]
    """The rules by which things were left out; `.dalignore` files count beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult:
    """What one backup did."""

    volume: str
    source: bytes
    created: bool
    """True when the volume was made for this."""
    clone_name: str
    clone: Clone
    taken: TakeResult
    duration_ns: int


def own_places(house: House) -> set[bytes]:
    """Return where our own files are, symlinks resolved: pool, caches, spools and catalogs."""
    known = (places.find_cache_dir(), places.find_state_dir(), places.SITE_STATE_DIR)
    found = (house.pool.backend.directory, house.cache_dir, *house.own_places, *known)
    return {os.path.realpath(os.fsencode(place)) for place in found if place is not None}


def own_paths(house: House, directory: bytes) -> tuple[bytes, ...]:
    """Return the paths from `directory` of our own places, within it or not: pool, caches, spools and catalogs.

    No backup holds them, by whatever way they are met.
    """
    source = os.path.realpath(directory)
    paths = {os.path.relpath(place, source) for place in own_places(house)}
    return tuple(sorted(paths - {b"."}))


def create_volume(
    house: House, name: str, *, source: Path | None = None, rules: RulesChange | None = None
) -> VolumeState:
    """Make an empty volume with rules of its own: tracked when `source` is given, else native."""
    settings = changed_settings({}, rules or RulesChange(), now_ns=now_ns())
    if source is None:
        return house.volumes.create(name, kind=NATIVE, now_ns=now_ns(), settings=settings)
    real = real_source(house, source)
    return house.volumes.create(name, kind=TRACKED, source=real, now_ns=now_ns(), settings=settings)


def take(
    house: House,
    state: VolumeState,
    directory: bytes,
    *,
    message: str,
    rules: RulesChange | None = None,
    accept_shrunk: bool = False,
) -> TakeResult:
    """Make the tree under `directory` the head of a volume.

    `rules` change what is left out this time only; `accept_shrunk`: what is left of it is right.
    """
    if state.kind == TRACKED:
        message = taken_message(message, directory)
    pool = house.pool
    left = left_out(state.settings, rules)
    if not is_directory(directory):
        raise NotFound(f"{os.fsdecode(directory)}: no such directory")
    options = ScanOptions(
        rules=rules_of(left, own=own_paths(house, directory)),
        # Directories stay on a machine that only writes, contents do not.
        inline_bytes_max=0 if pool.realm.only_writes else INLINE_BYTES_MAX,
    )
    previous: Revision | None = None
    with pool.writer(house.workers) as writer, house.fence.holding(writer.give_up):
        doubts = Doubts(pool, writer)

        def look() -> ScanResult:
            return scan_tree(
                Path(os.fsdecode(directory)),
                sink=writer,
                cutter=Cutter(pool.realm.chunk_seed),
                baseline=_baseline(house, state, previous, doubts),
                options=options,
                report=house.report,
            )

        try:
            previous = _head(house, state)
            scan = scan_again_when_damaged(doubts, look)
        except (NoAccess, NotFound):
            if not house.volumes.merges:
                raise
            # A token that only appends cannot read back what is no longer in the cache: all is read and compared again.
            previous = None
            scan = look()
        coverage = coverage_of(
            rules_of(left), [path for path, _ in scan.unreadable], [path for path, _ in scan.not_entered]
        )
        seen = (scan.root, scan.links, coverage)
        changed = previous is None or (previous.root, previous.links, previous.coverage) != seen
        with house.fence.step():
            if changed:
                revision = _revision(state, scan, coverage, message=message)
                state, identity = house.volumes.commit_revision(writer, state, revision)
            else:
                writer.commit_guard()
                identity = state.head
        doubts.tell(house.report)
    try:
        scan.cache.save(_cache_path(house, state), revision=identity)
    except (DalError, OSError):
        pass  # the next scan reads more; the backup itself is done
    before = entries_expected(
        state, entries_before=previous.entry_count if previous is not None else 0, accept=accept_shrunk
    )
    shrunk = None
    if state.kind == TRACKED:  # what is imported may be anything else than what was there
        shrunk = find_shrunk(entries_before=before, entries_now=scan.entry_count)
        state = keep_shrunk(house, state, shrunk)
    return TakeResult(
        state=state,
        revision=bytes(identity),
        changed=changed,
        entry_count=scan.entry_count,
        total_bytes=scan.total_bytes,
        files_read=scan.files_read,
        bytes_read=scan.bytes_read,
        bytes_stored=writer.bytes_stored,
        unreadable=scan.unreadable,
        changed_while_read=scan.changed,
        not_entered=scan.not_entered,
        missized=scan.missized,
        ignore_problems=scan.ignore_problems,
        socket_count=scan.socket_count,
        shrunk=shrunk,
        left_out=left,
        healed=doubts.count,
    )


def _cache_path(house: House, state: VolumeState) -> Path:
    return house.cache_dir / f"{state.id.hex()}{SCAN_SUFFIX}"


def _baseline(house: House, state: VolumeState, previous: Revision | None, doubts: Doubts) -> Baseline | None:
    """Return what a scan compares with: the head, read before, and the cache of the scan that it came from."""
    if previous is None:
        return None
    cache = load_cache(_cache_path(house, state), revision=state.head)
    return Baseline(revision=previous, source=house.pool, cache=cache, relies=doubts.relies if doubts else None)


def _head(house: House, state: VolumeState) -> Revision | None:
    """Return the head; None when there is none, or none any more: then all is stored anew, behind what was lost."""
    if not state.head:
        return None
    try:
        return read_revision(house.pool, state.head)
    except (NotFound, Damaged) as error:
        if house.pool.elsewhere is not None:
            raise
        text = f"the newest state of volume {state.name!r} is lost, everything is read again: {error}"
        house.report(Note(severity="notice", path=os.fsencode(house.pool.place), text=text))
        return None


def _revision(state: VolumeState, scan: ScanResult, coverage: Coverage | None, *, message: str) -> Revision:
    return Revision(
        volume=state.id,
        parents=[state.head] if state.head else [],
        root=scan.root,
        links=scan.links,
        created_ns=now_ns(),
        author=author(),
        message=message,
        entry_count=scan.entry_count,
        total_bytes=scan.total_bytes,
        coverage=coverage,
    )


def backup(
    house: House,
    what: str,
    *,
    rules: RulesChange | None = None,
    clone_name: str | None = None,
    accept_shrunk: bool = False,
    ask: Ask | None = None,
    by_name: bool = False,
) -> BackupResult:
    """Back up a directory, or the directory that the tracked volume `what` follows, and name the state.

    `rules` change what is left out this time only; `ask` is asked when another volume followed the directory before;
    with `by_name` no directory is meant.
    """
    started_ns = now_ns()
    left_out({}, rules)  # a bad pattern ends it before anything is made
    state, created = find_or_create(house, what, ask=ask, by_name=by_name)
    state = house.volumes.with_waiting(state)
    if clone_name is not None and clone_name in state.clones:
        raise AlreadyThere(f"clone {state.name}@{clone_name} exists already: choose another name, or unclone it first")
    taken = take(
        house,
        state,
        state.source,
        message="backup",
        rules=rules,
        accept_shrunk=accept_shrunk,
    )
    name, clone = house.volumes.add_clone(taken.state.name, clone_name, now_ns=now_ns(), revision=taken.revision)
    return BackupResult(
        volume=taken.state.name,
        source=state.source,
        created=created,
        clone_name=name,
        clone=clone,
        taken=taken,
        duration_ns=now_ns() - started_ns,
    )


def import_directory(
    house: House, name: str, directory: Path, *, rules: RulesChange | None = None
) -> tuple[TakeResult, bool]:
    """Put a directory into a native volume, which is made if it is not there; tell whether it was."""
    created = False
    left_out({}, rules)
    try:
        state = house.volumes.get(name)
    except NotFound:
        if not is_directory(directory):
            raise NotFound(f"{directory}: no such directory") from None
        state = create_volume(house, name)
        created = True
    if state.kind != NATIVE:
        raise BadInput(f"volume {name!r} follows {os.fsdecode(state.source)}: `dal backup {name}` takes what changed")
    taken = take(house, state, os.fsencode(directory), message=f"import {os.fspath(directory)}", rules=rules)
    return taken, created
