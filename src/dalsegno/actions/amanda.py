"""What Amanda needs of a house: a fresh enough clone, dumps that build only on Amanda's own, and chains from pipes."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from dalsegno.actions.backup import take
from dalsegno.actions.mount import settle
from dalsegno.actions.session import House
from dalsegno.chunks.realm import Realm
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.estimate import Estimate, count_in_pool, estimate_levels
from dalsegno.dumps.plan import DumpPlan, plan_dump, record_dump
from dalsegno.dumps.verify import verify_stream
from dalsegno.dumps.write import write_dump
from dalsegno.formats.objects import (
    CONTENT_CHUNK,
    CONTENT_RECIPE,
    ENTRY_DIRECTORY,
    ENTRY_LINK,
    DirectoryLeaf,
    Entry,
    Revision,
)
from dalsegno.formats.pack_header import DumpNote
from dalsegno.host.outcome import RestoreResult
from dalsegno.host.restore import restore_tree
from dalsegno.host.restoring import RestoreOptions
from dalsegno.pool.contract import Source
from dalsegno.pool.sources import FirstOf
from dalsegno.terms.errors import BadInput, Conflict, Damaged, NotFound, Refused
from dalsegno.terms.ids import ObjectId
from dalsegno.terms.times import SECOND_NS
from dalsegno.trees.diff import diff_revisions
from dalsegno.trees.limit import entries_max, too_many
from dalsegno.trees.read import child_node, directory_node, read_revision
from dalsegno.trees.walk import walk
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.leases import freeze, held, thaw
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.state import TRACKED, VolumeState
from dalsegno.volumes.store import check_clone_name
from dalsegno.world.clock import now_ns
from dalsegno.world.files import READ_BYTES, PartialFile, file_errors, make_directory, write_durable

LEASE_SECONDS = 60
UNREADABLE_KEPT_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """The clone to dump."""

    clone: Clone
    made: bool
    """False when one was there that is young enough."""
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A dump that was written in one stream."""

    dump_id: bytes
    size_bytes: int


def _on_servers() -> Any:
    # Loaded only where volumes are on servers.
    return import_module("dalsegno.actions.amanda_realm")


def state_now(house: House, volume: str, *, to_dump: bool = True) -> VolumeState:
    """Return a volume as it is now; of one on servers, Unavailable or NoAccess say why it could not be dumped."""
    if house.volumes.merges:
        found: VolumeState = _on_servers().state_now(house, volume, to_dump=to_dump)
        return found
    return house.volumes.get(volume)


def clone_in_use(state: VolumeState, clone_name: str, *, age_seconds: int, now_ns: int) -> Clone | None:
    """Return the clone to use again, or None when a new one is due."""
    clone = state.clones.get(clone_name)
    if clone is None or not 0 <= now_ns - clone.created_ns < age_seconds * SECOND_NS:
        return None
    return clone


def fresh_clone(house: House, volume: str, clone_name: str, *, age_seconds: int) -> Fresh:
    """Return a clone that is young enough: the one that is there, or a new one in its place: lock, clone, unlock.

    Conflict while somebody else has the volume frozen.
    """
    check_clone_name(clone_name)
    if house.volumes.merges:
        fresh: Fresh = _on_servers().fresh_clone(house, volume, clone_name, age_seconds=age_seconds)
        return fresh
    state = house.volumes.get(volume)
    now = now_ns()
    found = clone_in_use(state, clone_name, age_seconds=age_seconds, now_ns=now)
    if found is not None:
        return Fresh(clone=found, made=False, unreadable=_unreadable_of(house, state, found.revision))
    owner = f"Amanda on {os.uname().nodename}"
    check_replaceable(state, clone_name, owner=owner, now_ns=now)
    unreadable: tuple[str, ...] = ()
    if state.kind == TRACKED:
        taken = take(house, state, state.source, message="amanda")
        unreadable = tuple(f"{os.fsdecode(path)}: {text}" for path, text in taken.unreadable)
        if taken.shrunk is not None:
            unreadable = (f".: {taken.shrunk}", *unreadable)
        _keep_unreadable(house, state, taken.revision, unreadable)
    else:
        settle(house, state)
    try:
        house.volumes.update(
            state.id, lambda current: freeze(current, owner=owner, now_ns=now_ns(), seconds=LEASE_SECONDS)
        )
        made = house.volumes.update(state.id, lambda current: _named(current, clone_name, now_ns=now_ns()))
    finally:
        house.volumes.update(state.id, lambda current: thaw(current, owner=owner))
    return Fresh(clone=made.clones[clone_name], made=True, unreadable=unreadable)


def check_replaceable(state: VolumeState, clone_name: str, *, owner: str, now_ns: int) -> None:
    """Raise Conflict while somebody else than `owner` has the volume frozen, Refused when the clone is to stay.

    That is one which is held, and one that a person made: who runs Amanda is not whose files these are.
    """
    lease = held(state, now_ns=now_ns)
    if lease is not None and lease.owner != owner:
        raise Conflict(f"volume {state.name!r} is frozen by {lease.owner}")
    old = state.clones.get(clone_name)
    if old is not None and old.held:
        raise Refused(f"clone {state.name}@{clone_name} is held, so no newer one can take its place: `dal unhold` it")
    if old is not None and not old.automatic:
        raise Refused(
            f"clone {state.name}@{clone_name} was not made by Amanda, so no newer one takes its place: "
            f"`dal unclone {state.name}@{clone_name}`, or another name by property CLONE"
        )


def _unreadable_place(house: House, state: VolumeState) -> Path:
    return house.cache_dir / f"{state.id.hex()}.amanda"


def _keep_unreadable(house: House, state: VolumeState, revision: bytes, unreadable: Sequence[str]) -> None:
    """Remember what was not readable for the dump: the estimate takes the clone, the dump tells people."""
    make_directory(house.cache_dir)
    text = json.dumps([revision.hex(), list(unreadable[:UNREADABLE_KEPT_MAX])])
    write_durable(_unreadable_place(house, state), text.encode(), mode=0o600, sync=False)


def _unreadable_of(house: House, state: VolumeState, revision: bytes) -> tuple[str, ...]:
    """Return what was not readable when the clone was taken; as all of a cache it may be lost."""
    try:
        taken, unreadable = json.loads(_unreadable_place(house, state).read_bytes())
    except (OSError, ValueError):
        return ()
    return tuple(unreadable) if taken == revision.hex() else ()


def _named(state: VolumeState, clone_name: str, *, now_ns: int) -> VolumeState:
    if not state.head:
        raise Refused(f"volume {state.name!r} is empty: import or back up something first")
    clone = Clone(revision=state.head, created_ns=now_ns, automatic=True)
    return msgspec.structs.replace(state, clones=state.clones.put(clone_name, clone))


def without_higher(state: VolumeState, made: DumpRecord) -> VolumeState:
    """Return `state` with `made` recorded, and without those of its recorder that it takes the place of."""
    gone = {each.dump_id for each in state.dumps if each.recorder == made.recorder and each.level > made.level}
    return record_dump(msgspec.structs.replace(state, dumps=state.dumps.without(gone)), made)


def estimate(
    house: House, volume: str, revision: bytes, levels: Sequence[int], *, recorder: str
) -> list[Estimate | None]:
    """Return one estimate per level from the comparison of trees; None for one that has no base."""
    state = house.volumes.get(volume)
    possible = [level for level in levels if _has_base(house, state, revision, level, recorder)]
    count = count_in_pool(house.pool, revision)
    if house.volumes.merges:
        count = partial(import_module("dalsegno.actions.remote_dump").count_new, house, state, revision)
    made = estimate_levels(state, levels=possible, count=count, recorder=recorder)
    by_level = {each.level: each for each in made}
    return [by_level.get(level) for level in levels]


def _has_base(house: House, state: VolumeState, revision: bytes, level: int, recorder: str) -> bool:
    try:
        plan_dump(house.pool, state, targets=[("", revision)], level=level, now_ns=now_ns(), recorder=recorder)
    except (Refused, BadInput):
        return False
    return True


def plan(house: House, volume: str, clone_name: str, clone: Clone, *, level: int, recorder: str) -> DumpPlan:
    """Return the plan of a dump of the clone. Refused when the level has no base, or its base was pruned."""
    state = house.volumes.get(volume)
    targets = [(clone_name, clone.revision)]
    return plan_dump(house.pool, state, targets=targets, level=level, now_ns=now_ns(), recorder=recorder)


def write(house: House, chosen: DumpPlan, write_bytes: Callable[[bytes], object], *, dense: bool) -> Written:
    """Write the dump in one stream; `dense` compresses it anew, slowly and well: in a pool, not on servers."""
    if house.volumes.merges:
        assert not dense
        written: Written = _on_servers().write(house, chosen, write_bytes)
        return written
    summary = write_dump(
        house.pool,
        chosen,
        write_bytes,
        realm=house.pool.realm,
        sealed=house.pool.encryption != "none",
        dense=dense,
        workers=house.workers,
        report=house.report,
    )
    return Written(dump_id=summary.pack_id, size_bytes=summary.size_bytes)


def listing(house: House, chosen: DumpPlan) -> Iterator[tuple[bytes, bool]]:
    """Yield (path, is a directory) of what the dump brings: everything, or what differs from its base."""
    revision = read_revision(house.pool, ObjectId(chosen.target))
    if chosen.base is None:
        yield from _everything(house.pool, revision)
        return
    yield from _changes(house.pool, read_revision(house.pool, ObjectId(chosen.base.revision)), revision)


def _changes(source: Source, base: Revision, revision: Revision) -> Iterator[tuple[bytes, bool]]:
    for change in diff_revisions(source, base, revision):
        if change.new is not None:
            yield change.path, change.new.kind == ENTRY_DIRECTORY


def _everything(source: Source, revision: Revision) -> Iterator[tuple[bytes, bool]]:
    for path, entry in walk(source, revision):
        yield path, entry.kind == ENTRY_DIRECTORY


def record(house: House, chosen: DumpPlan, written: Written, *, recorder: str, timestamp: str) -> None:
    """Let later dumps of the same recorder build on this one. What is recorded above its level is of no more use."""
    made = DumpRecord(
        dump_id=written.dump_id,
        level=chosen.note.level,
        revision=chosen.target,
        base_dump=chosen.note.base_dump,
        taken_at_ns=chosen.note.taken_at_ns,
        path=f"{recorder} {timestamp}",
        size_bytes=written.size_bytes,
        recorder=recorder,
    )
    house.volumes.update(chosen.note.volume, lambda state: without_higher(state, made))


# Restoring. Amanda hands over one image after the other, the full one first, each through a pipe of its own.


def verify(stream: BinaryIO, realm: Realm) -> DumpNote:
    """Read an image to its end; Damaged says what is wrong."""
    return verify_stream(stream, realm)[0]


def keep_image(stream: BinaryIO, place: Path) -> None:
    """Keep an image as a file."""
    with file_errors(place.parent), PartialFile(place, mode=0o600) as file:
        while data := stream.read(READ_BYTES):
            file.write(data)
        file.commit()


def image_chain(places: Sequence[Path], realm: Realm) -> list[Path]:
    """Return those of `places` (lower levels first) that lead to the last one: it builds on each of them."""
    chain = [places[-1]]
    for place in reversed(places[:-1]):
        try:
            with DumpChain.open([place, *chain], realm):
                chain.insert(0, place)
        except (Refused, Damaged):
            continue
    return chain


def restore_images(
    places: Sequence[Path], realm: Realm, target: Path, *, paths: Sequence[bytes], pool: Source | None
) -> RestoreResult:
    """Bring `target` to the state of the last of `places`, or only `paths` of it.

    What neither it nor the images before it have is taken from the pool. Applying an increment removes what it removed.
    """
    with DumpChain.open(image_chain(places, realm), realm) as chain:
        source: Source = chain if pool is None else FirstOf([chain, pool])
        if not paths and chain.bases and not _has(source, chain.bases[0]):
            chain.require_full()
        revision = read_revision(source, ObjectId(chain.target.revision))
        increment = bool(chain.notes[-1].bases)
        options = RestoreOptions(paths=list(paths), delete=increment, delete_excluded=True)
        return restore_tree(source, revision, target, options=options)


def _has(source: Source, revision: bytes) -> bool:
    try:
        source.get(ObjectId(revision))
    except NotFound:
        return False
    return True


def image_note(place: Path, realm: Realm) -> DumpNote:
    """Return what an image says about itself."""
    with DumpChain.open([place], realm) as chain:
        return chain.notes[0]


def image_listing(place: Path, realm: Realm, *, pool: Source | None) -> Iterator[tuple[bytes, bool]]:
    """Yield (path, is a directory) of what an image brings.

    Of an increment that is what differs from its base, when the pool still has that. By itself an increment tells
    less: the files whose data it carries and the directories that changed; never one that did not change.
    """
    with DumpChain.open([place], realm) as chain:
        revision = read_revision(chain, ObjectId(chain.target.revision))
        if not chain.bases:
            yield from _everything(chain, revision)
            return
        if pool is not None and _has(pool, chain.bases[0]):
            both = FirstOf([chain, pool])
            yield from _changes(both, read_revision(both, ObjectId(chain.bases[0])), revision)
            return
        yield from _carried(chain, revision)


def _carried(chain: DumpChain, revision: Revision) -> Iterator[tuple[bytes, bool]]:
    """Yield (path, is a directory) of a tree's entries whose content is in the first dump of a chain."""

    def is_here(identity: bytes) -> bool:
        return chain.readers[0].find(identity) is not None

    left = entries_max(revision)
    links = {int(entry.name, 16) for entry in _entries_here(chain, revision.links, is_here) if _is_data(entry, is_here)}
    stack = [(b"", revision.root.content)]
    while stack:
        parent, identity = stack.pop()
        for entry in _entries_here(chain, identity, is_here):
            left -= 1
            if left < 0:
                raise too_many(revision)
            path = parent + b"/" + entry.name if parent else entry.name
            if entry.kind == ENTRY_DIRECTORY and is_here(entry.content):
                yield path, True
                stack.append((path, entry.content))
            elif _is_data(entry, is_here) or (entry.kind == ENTRY_LINK and entry.link in links):
                yield path, False


def _is_data(entry: Entry, is_here: Callable[[bytes], bool]) -> bool:
    return entry.content_kind in (CONTENT_CHUNK, CONTENT_RECIPE) and is_here(entry.content)


def _entries_here(source: Source, identity: bytes, is_here: Callable[[bytes], bool]) -> Iterator[Entry]:
    """Yield the entries of those leaves of a directory that are here."""
    if not identity or not is_here(identity):
        return
    stack = [directory_node(source, identity, None)]
    while stack:
        node = stack.pop()
        if isinstance(node, DirectoryLeaf):
            yield from node.entries
            continue
        rows = [row for row, child in enumerate(node.children) if is_here(child.id)]
        stack += [child_node(source, node, row) for row in reversed(rows)]
