"""Load dumps into a pool: a living, writable volume again, whose next increments continue the old lineage."""

import os
from collections.abc import Callable, Iterator

import msgspec

from dalsegno.dumps.admission import ChainOverPool
from dalsegno.dumps.chain import DumpChain
from dalsegno.dumps.plan import describe, record_dump
from dalsegno.formats import objects
from dalsegno.formats.objects import Reference
from dalsegno.pool.marks import Marks
from dalsegno.pool.pool import Pool
from dalsegno.terms.errors import AlreadyThere, BadInput, Conflict, Damaged, NotFound, Refused
from dalsegno.terms.events import Note, Progress, Report, silent
from dalsegno.terms.ids import ObjectId, hex_short
from dalsegno.trees.read import read_revision
from dalsegno.volumes.clones import Clone
from dalsegno.volumes.dates import is_future
from dalsegno.volumes.records import DumpRecord
from dalsegno.volumes.signed import require_signed_line
from dalsegno.volumes.state import NATIVE, VolumeState
from dalsegno.volumes.store import Volumes, check_clone_name
from dalsegno.world.workers import Workers


def load_chain(
    chain: DumpChain,
    pool: Pool,
    volumes: Volumes,
    name: str,
    *,
    now_ns: int,
    workers: Workers | None = None,
    report: Report = silent,
    admit: Callable[[VolumeState | None], None] = lambda state: None,
    keep_paths: bool = True,
) -> VolumeState:
    """Make volume `name` from the chain; a chain of increments brings an existing volume forward instead.

    Everything is checked before anything is written: an increment onto a volume that is not at its base is Refused.
    The revisions that the chain carries become clones; its dumps become the bases of the next increments. `admit` is
    given the volume as it is, or None, and refuses what whoever sent the chain may not do. Without `keep_paths` nothing
    is recorded of where the dumps were.
    """
    existing = _volume_to_continue(chain, pool, volumes, name)
    admit(existing)
    carried = _clones_of(chain, now_ns=now_ns, report=report)
    if existing is not None:
        require_signed_line(ChainOverPool(chain, pool), pool, existing, chain.target.revision)
    transfer(chain, pool, workers=workers, report=report)
    if existing is None:
        last = chain.notes[-1]
        taken = volumes.get_by_id(last.volume) is not None
        existing = volumes.create(name, kind=NATIVE, now_ns=now_ns, volume_id=b"" if taken else last.volume)
    expected = existing.head

    def change(state: VolumeState) -> VolumeState:
        if state.head != expected:
            raise Conflict(f"volume {name!r}: somebody else committed meanwhile; run again")
        clones = state.clones
        for clone_name, clone in carried.items():
            if clone_name not in clones:
                clones = clones.put(clone_name, clone)
        state = msgspec.structs.replace(state, head=chain.target.revision, clones=clones)
        for reader, note in zip(chain.readers, chain.notes, strict=True):
            record = DumpRecord(
                dump_id=reader.pack_id,
                level=note.level,
                revision=note.targets[-1].revision,
                base_dump=note.base_dump,
                taken_at_ns=note.taken_at_ns,
                path=str(reader.path.absolute()) if keep_paths else "",
                size_bytes=reader.size_bytes,
            )
            state = record_dump(state, record)
        return state

    state = volumes.update(existing.id, change)
    if is_future(read_revision(pool, ObjectId(state.head)).created_ns, now_ns=now_ns):
        text = f"its newest state is of the future, and no server takes a later one: `dal volume reopen {name}`"
        report(Note(severity="warning", path=os.fsencode(name), text=text))
    return state


def _clones_of(chain: DumpChain, *, now_ns: int, report: Report) -> dict[str, Clone]:
    """Return the clones that a chain carries, dated no later than now; a name that no clone may have is said."""
    carried = {}
    # Of a name that was given again the newest state counts, as when the chain is read; what the volume has stays.
    for target in chain.targets():
        if not target.clone:
            continue
        try:
            check_clone_name(target.clone)
        except BadInput as error:
            report(Note(severity="warning", path=chain.readers[0].path.name.encode(), text=f"left out: {error}"))
            continue
        carried[target.clone] = Clone(revision=target.revision, created_ns=min(target.created_ns, now_ns))
    return carried


def _volume_to_continue(chain: DumpChain, pool: Pool, volumes: Volumes, name: str) -> VolumeState | None:
    try:
        state = volumes.get(name)
    except NotFound:
        chain.require_full()
        return None
    if not chain.bases:
        if state.kind == NATIVE and not state.head and not state.clones:
            return state  # an empty one: made for this by a restore that was killed, or by hand
        raise AlreadyThere(f"volume {name!r} exists already: choose another name, or `dal volume rename {name}` first")
    if state.head != chain.bases[0]:
        raise Refused(
            f"{chain.readers[0].path} ({describe(chain.notes[0], chain.readers[0].pack_id)}) does not continue "
            f"volume {name!r}, which is at revision {hex_short(state.head) if state.head else 'nothing'}"
        )
    return state


def transfer(chain: DumpChain, pool: Pool, *, workers: Workers | None, report: Report = silent) -> None:
    """Copy every object of the chain's targets into the pool, each id computed anew before it is believed.

    What an object names is stored before it, so that a load that is killed leaves nothing that seems whole and is not.
    """
    seen = Marks(reversed(chain.readers))
    done = 0
    total = sum(reader.object_count for reader in chain.readers)
    outside_allowed = bool(chain.bases)
    entered: list[tuple[int, bytes, bytes, Iterator[Reference]]] = []
    with pool.writer(workers) as writer:

        def enter(kind: int, identity: bytes) -> None:
            if not seen.add(identity):
                return
            try:
                payload = chain.get(ObjectId(identity))
            except NotFound as error:
                if outside_allowed and writer.has(ObjectId(identity)):
                    return
                raise Damaged(str(error)) from None
            if pool.realm.identify(kind, payload) != identity:
                raise Damaged(f"object {hex_short(identity)}: its content and its id disagree; verify the dump")
            if kind == objects.KIND_CHUNK:
                store(kind, identity, payload)
            else:
                entered.append((kind, identity, payload, objects.references(kind, payload)))

        def store(kind: int, identity: bytes, payload: bytes) -> None:
            nonlocal done
            writer.put_known(kind, ObjectId(identity), payload)
            done += 1
            report(Progress(phase="load", done_count=done, total_count=total))

        for target in chain.targets():
            enter(objects.KIND_REVISION, target.revision)
            while entered:
                kind, identity, payload, below = entered[-1]
                reference = next(below, None)
                if reference is not None:
                    enter(*reference)
                else:
                    entered.pop()
                    store(kind, identity, payload)
        writer.flush()
        writer.commit_guard()
