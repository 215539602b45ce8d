"""Collect what nothing names any more, beside writers, in two phases: condemn, wait, delete.

1. Mark: `live` yields the ids that some ref reaches, one or many joined at a time.
2. A pack condemned for longer than the grace period, and still not needed by this run's mark, is deleted. If something
   that was found dead only now names an object in it, it waits once more: until this run somebody might have relied on
   what was found dead, which means on all that it names.
3. A pack that holds nothing needed is condemned: a file with the time.
4. One that is needed for less than 70 % of its bytes is written again, as far as room and time allow: its needed
   objects go to a new pack, then the old one is condemned. Whole packs go first, so that there is room for this.

A pack younger than the grace period is left alone while somebody may write: its writer has not swapped its ref yet. A
writer that relied on a condemned pack stores those objects again before it commits (PoolWriter.commit_guard).

Dead directories, recipes and revisions that stay behind in kept packs are listed in `condemned/objects`, before
anything they name is deleted: a writer that finds one must not conclude that what it names is there.

On a full disk what must be written before something can go may use the reserve (backends/reserve.py). Each step leaves
a good pool when killed; the next run decides anew and so goes on.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from dalsegno.formats.objects import KIND_CHUNK, references
from dalsegno.formats.pack import ENCODING_DELTA
from dalsegno.formats.pack_index import decode_kinds, decode_offsets, decode_place
from dalsegno.formats.pack_records import read_record
from dalsegno.pool.adopt import JOINED_SUFFIX, UPLOADS
from dalsegno.pool.copy import PoolMarks
from dalsegno.pool.damage import UNSOUND, PackDamage
from dalsegno.pool.id_sets import SortedIds, as_sorted_ids, member_mask
from dalsegno.pool.index import Ids, Values
from dalsegno.pool.pack_read import PackReader
from dalsegno.pool.pool import (
    COLLECT_LOCK,
    CONDEMNED,
    DEAD_OBJECTS,
    PACK_BYTES_TARGET,
    PACKS,
    REFS,
    RESERVE_LARGE_FROM,
    WRITERS_LOCK,
    Pool,
    PoolWriter,
    pack_name,
)
from dalsegno.terms.errors import BadInput, Conflict, DalError, Damaged, Full, NotFound
from dalsegno.terms.events import Note, Progress, Report
from dalsegno.terms.ids import OBJECT_ID_BYTES, ObjectId, PackId
from dalsegno.world.files import PARTIAL_SUFFIX, remove_older

SECOND_NS: Final = 1_000_000_000
LIVE_PERCENT_MIN: Final = 70
GRACE_SECONDS_DEFAULT: Final = 24 * 3600
PARTIAL_GRACE_NS: Final = 24 * 3600 * SECOND_NS
ROOM_BYTES_MIN: Final = 64 * 1024
"""Left free when packs are written again: for their indexes and for what others write meanwhile."""
NOBODY: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectResult:
    """What a collection did, or with `dry_run` would do."""

    packs: int
    kept: int
    condemned: int
    """Packs newly condemned, those written again included."""
    rewritten: int
    deleted: int
    reprieved: int
    """Condemned packs that are needed again."""
    freed_bytes: int
    condemned_bytes: int
    """Bytes that wait for their grace period to end."""
    live_objects: int
    dead_objects: int
    """Dead objects that stay behind in kept packs."""
    left: int
    """Packs that should be written again, and wait for another run: for room or for time."""
    out_of_room: bool
    """Whether it was room."""
    releases: tuple[tuple[int, int], ...]
    """(time in ns, bytes): what a collection gives back that runs then, in order of time; half-dead packs not counted.

    Bytes of packs too young to be judged while others may write are among them."""


@dataclass(slots=True, kw_only=True)
class _Pack:
    number: int
    pack_id: PackId
    size_bytes: int
    mtime_ns: int
    live_bytes: int = 0
    total_bytes: int = 0
    needed_bytes: int = 0
    needed_count: int = 0
    is_hurt: bool = False
    """Whether some of it cannot be read."""

    @property
    def rewritten_bytes(self) -> int:
        """About how large what is needed of it will be in a new pack."""
        return self.size_bytes * self.needed_bytes // max(self.total_bytes, 1)


@dataclass(slots=True, kw_only=True)
class _Verdict:
    """What is to become of each pack."""

    kept: list[_Pack] = field(default_factory=list)
    young: list[_Pack] = field(default_factory=list)
    """Dead, but their writers may be about to commit."""
    doomed: list[_Pack] = field(default_factory=list)
    partial: list[_Pack] = field(default_factory=list)
    reprieved: list[_Pack] = field(default_factory=list)
    expired: list[_Pack] = field(default_factory=list)
    waiting: list[_Pack] = field(default_factory=list)
    renewed: list[_Pack] = field(default_factory=list)
    """Of those that wait: those that do so once more."""
    dead_kept: list[bytes] = field(default_factory=list)
    dead_partial: list[bytes] = field(default_factory=list)
    """Joined ids of dead metadata in packs that stay, and in those that are to be written again."""


def _always() -> bool:
    return True


def collect(
    pool: Pool,
    live: Callable[[], Iterable[bytes]],
    *,
    grace_seconds: int,
    now_ns: int,
    dry_run: bool,
    report: Report,
    more: Callable[[], bool] = _always,
) -> CollectResult:
    """Collect `pool`. With a grace of 0 nobody may be writing: Conflict otherwise, as when another collects.

    When `more` says no, packs are written again no longer: at least a few are in each run, so that runs come to an end.
    """
    if grace_seconds < 0:
        raise BadInput(f"grace of {grace_seconds} s: expected 0 or more")
    place = pool.backend
    with place.making_room(lambda: place.lock(COLLECT_LOCK)) as lock:
        if not lock.acquire(wait=False):
            raise Conflict(f"{place}: another collection is running: try again when it has ended")
        with place.making_room(lambda: place.lock(WRITERS_LOCK)) as writers:
            alone = writers.acquire(wait=False)
            if grace_seconds == 0 and not alone:
                raise Conflict(f"{place}: a writer is at work: wait for it, or give a grace period")
            run = _Collection(pool, grace_ns=grace_seconds * SECOND_NS, now_ns=now_ns, report=report, more=more)
            # Packs before refs: a pack that comes later is not judged by a mark that could not know it.
            packs = run.list_packs()
            if grace_seconds:
                writers.release()
            # On a server, packs are adopted by one call and named in a ref by a later one: it is never quite alone.
            run.alone = alone and not place.scratch(UPLOADS).exists()
            try:
                return run.run(packs, live, dry_run)
            finally:
                if not dry_run:
                    place.keep_reserve(large=sum(each.size_bytes for each in packs) > RESERVE_LARGE_FROM)


class _Collection:
    """One run, with the locks held."""

    def __init__(
        self, pool: Pool, *, grace_ns: int, now_ns: int, report: Report, more: Callable[[], bool] = _always
    ) -> None:
        self.pool = pool
        self.grace_ns = grace_ns
        self.now_ns = now_ns
        self.report = report
        self.more = more
        self.alone = False
        """Whether nobody was writing when the packs were listed: then none of them waits for its ref."""
        self.live: SortedIds = as_sorted_ids(b"")
        self.owners: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self.deleted: list[_Pack] = []
        self.condemned: list[_Pack] = []
        self.unopened: list[_Pack] = []
        """Packs that cannot be read at all."""
        self.missing_count = 0
        """Objects that are needed and are nowhere."""
        self.out_of_room = False

    def run(self, packs: list[_Pack], live: Callable[[], Iterable[bytes]], dry_run: bool) -> CollectResult:
        condemned_since = self.pool.read_condemned()
        self._mark(live)
        self.pool.refresh()
        packs = self._measure(packs)
        verdict = self._judge(packs, condemned_since)
        dead_objects = b"".join(verdict.dead_kept)
        if dry_run:
            gone = verdict.doomed + verdict.partial
            self.deleted = verdict.expired + ([] if self.grace_ns else gone)
            self.condemned = gone if self.grace_ns else []
            left: list[_Pack] = []
        else:
            left = self._act(verdict)
            if left:
                dead_objects += b"".join(verdict.dead_partial)
            self._write_dead_objects(dead_objects)
            self._settle_damage()
            self._sweep(condemned_since)
            self.pool.index.trim()
        return CollectResult(
            packs=len(packs),
            kept=len(verdict.kept) + len(verdict.young) + len(verdict.reprieved) + len(left),
            condemned=len(verdict.doomed) + len(verdict.partial) - len(left),
            rewritten=len(verdict.partial) - len(left),
            deleted=len(self.deleted),
            reprieved=len(verdict.reprieved),
            freed_bytes=sum(each.size_bytes for each in self.deleted),
            condemned_bytes=sum(each.size_bytes for each in verdict.waiting + self.condemned),
            live_objects=len(self.live),
            dead_objects=len(dead_objects) // OBJECT_ID_BYTES,
            left=len(left),
            out_of_room=self.out_of_room,
            releases=self._releases(verdict, condemned_since),
        )

    def _judge(self, packs: list[_Pack], condemned_since: dict[PackId, int]) -> _Verdict:
        """Decide what becomes of each pack."""
        verdict = _Verdict()
        ordinary = [each for each in packs if each.pack_id not in condemned_since]
        # The fullest claim first, so that of two copies the one in the emptier pack is given up; damaged packs, then
        # condemned packs last.
        ordinary.sort(key=lambda each: (each.is_hurt, -(each.live_bytes / max(each.total_bytes, 1)), each.pack_id))
        condemned = [each for each in packs if each.pack_id in condemned_since]
        newly_dead = [self._claim(each) for each in ordinary]
        for each in condemned:
            self._claim(each)
        self.missing_count = int(np.count_nonzero(self.owners == NOBODY))
        for each, dead in zip(ordinary, newly_dead, strict=True):
            young = bool(self.grace_ns) and each.mtime_ns > self.now_ns - self.grace_ns
            # What is lost in a damaged pack and is nowhere else may be read from it once more some day.
            last_hope = each.is_hurt and self._holds_missing(each)
            sparse = each.needed_bytes * 100 < each.total_bytes * LIVE_PERCENT_MIN
            if not each.needed_count and not last_hope:
                (verdict.young if young and not self.alone else verdict.doomed).append(each)
            elif not young and not last_hope and (sparse or each.is_hurt):
                verdict.partial.append(each)
                verdict.dead_partial.append(dead)
            else:
                verdict.kept.append(each)
                if not young:
                    verdict.dead_kept.append(dead)
        for each in condemned:
            if each.needed_count or (each.is_hurt and self._holds_missing(each)):
                verdict.reprieved.append(each)
                verdict.dead_kept.append(self._dead_metadata(each))
            elif condemned_since[each.pack_id] + self.grace_ns <= self.now_ns:
                verdict.expired.append(each)
            else:
                verdict.waiting.append(each)
        if not self.missing_count:
            verdict.doomed += self.unopened
        verdict.renewed = self._still_named(verdict.expired, newly_dead)
        verdict.waiting += verdict.renewed
        verdict.expired = [each for each in verdict.expired if each not in verdict.renewed]
        return verdict

    def _holds_missing(self, each: _Pack) -> bool:
        """Tell whether a damaged pack once held something that is needed and is nowhere else."""
        ids, values = self._columns(each)
        rows = np.flatnonzero(member_mask(self.live, _joined(ids)) & self.pool.losses.hurt_rows(each.pack_id, values))
        return bool((self.owners[np.searchsorted(self.live, _joined(ids)[rows])] == NOBODY).any())

    def _act(self, verdict: _Verdict) -> list[_Pack]:
        """Do what was decided; return the packs that should have been written again, but for room or time."""
        pool = self.pool
        # What refs say decides what goes: whoever wrote them may have been killed before they were durable.
        pool.backend.settle_below(REFS)
        pool.backend.making_room(lambda: pool.backend.prepare([CONDEMNED + "/"]))
        # Before anything that they name goes, those in packs that may be written again included.
        self._write_dead_objects(b"".join(verdict.dead_kept + verdict.dead_partial))
        for each in verdict.reprieved:
            pool.backend.discard(_condemned_name(each.pack_id))
        self._delete(verdict.expired)
        self._condemn(verdict.renewed)
        self._give_up(verdict.doomed)
        left = []
        begun = False
        for batch in self._batches(verdict.partial):
            if self.out_of_room or (begun and not self.more()):
                left += batch
                continue
            begun = True
            left += self._rewrite_batch(batch)
        return left

    def _give_up(self, packs: list[_Pack]) -> None:
        """Condemn packs that nobody needs, or without grace delete them."""
        if self.grace_ns:
            self._condemn(packs)
            self.condemned += packs
        else:
            self._delete(packs)

    def _condemn(self, packs: list[_Pack]) -> None:
        for each in packs:
            self._put(_condemned_name(each.pack_id), b"%d" % self.now_ns)

    def _delete(self, packs: list[_Pack]) -> None:
        ids = [each.pack_id for each in packs]
        # A false alarm later is better than no room now: it makes a backup look closer, nothing more.
        with suppress(Full):
            self.pool.backend.making_room(lambda: self.pool.index.note_collected(ids))
        for number, each in enumerate(packs):
            self.report(Progress(phase="delete", done_count=number, total_count=len(packs)))
            self.pool.backend.discard(pack_name(each.pack_id))
            self.pool.backend.discard(_condemned_name(each.pack_id))
            self.pool.losses.set(each.pack_id, PackDamage())
        self.pool.index.forget(ids)
        self.deleted += packs

    def _batches(self, packs: list[_Pack]) -> Iterator[list[_Pack]]:
        """Yield packs that make a whole new one together, those first that give back most for what is written."""
        batch: list[_Pack] = []
        size = 0
        for each in sorted(packs, key=lambda each: each.needed_bytes / max(each.total_bytes, 1)):
            if batch and size + each.rewritten_bytes > PACK_BYTES_TARGET:
                yield batch
                batch, size = [], 0
            batch.append(each)
            size += each.rewritten_bytes
        if batch:
            yield batch

    def _rewrite_batch(self, batch: list[_Pack]) -> list[_Pack]:
        """Write packs again and give them up, together or, with little room, one by one; return what is left."""
        if len(batch) > 1 and self._has_room(sum(each.rewritten_bytes for each in batch)):
            try:
                self._rewrite(batch)
            except Full:
                pass
            else:
                self._give_up(batch)
                return []
        for number, each in enumerate(batch):
            try:
                if not self._has_room(each.rewritten_bytes):
                    raise Full(f"{self.pool.backend}: no room to write pack {each.pack_id.hex()} again")
                self._rewrite([each])
            except Full:
                self.out_of_room = True
                return batch[number:]
            self._give_up([each])
        return []

    def _has_room(self, size_bytes: int) -> bool:
        """Tell whether so much can be written; without grace it is given back at once, so the reserve may go for it."""
        space = self.pool.backend.space()
        if space is None or space.free_bytes > size_bytes + ROOM_BYTES_MIN:
            return True
        if self.grace_ns:
            return False
        self.pool.backend.release_reserve()
        space = self.pool.backend.space()
        return space is None or space.free_bytes > size_bytes

    def _releases(self, verdict: _Verdict, since: dict[PackId, int]) -> tuple[tuple[int, int], ...]:
        """Return when a collection gives back how much of what is dead."""
        at: dict[int, int] = {}
        renewed = {each.pack_id for each in verdict.renewed}
        for each in verdict.waiting + self.condemned:
            condemned = self.now_ns if each.pack_id in renewed else since.get(each.pack_id, self.now_ns)
            at[condemned + self.grace_ns] = at.get(condemned + self.grace_ns, 0) + each.size_bytes
        for each in verdict.young:
            free_at = each.mtime_ns + 2 * self.grace_ns
            at[free_at] = at.get(free_at, 0) + each.size_bytes
        return tuple(sorted(at.items()))

    def list_packs(self) -> list[_Pack]:
        """Return the packs that are there, not measured yet."""
        return [
            _Pack(number=number, pack_id=pack_id, size_bytes=entry.size_bytes, mtime_ns=entry.changed_ns)
            for number, (pack_id, entry) in enumerate(sorted(self.pool.pack_entries().items()))
        ]

    def _mark(self, live: Callable[[], Iterable[bytes]]) -> None:
        joined = bytearray()
        for ids in live():
            assert len(ids) % OBJECT_ID_BYTES == 0
            joined += ids
        self.report(Progress(phase="mark", done_count=len(joined) // OBJECT_ID_BYTES))
        self.live = as_sorted_ids(joined)

    def _columns(self, each: _Pack) -> tuple[Ids, Values]:
        reader = self.pool.open_pack(each.pack_id)
        try:
            return reader.objects()
        finally:
            reader.close()

    def _measure(self, packs: list[_Pack]) -> list[_Pack]:
        """Fill in live and total bytes, until the bases of live deltas are live too; drop packs that do not open."""
        while True:
            usable: list[_Pack] = []
            bases = bytearray()
            self.unopened = []
            for number, each in enumerate(packs):
                self.report(Progress(phase="measure", done_count=number, total_count=len(packs)))
                try:
                    ids, values = self._columns(each)
                except NotFound:
                    continue
                except DalError as error:
                    # A damaged pack may be all that is left of something: kept as long as anything is missing.
                    if isinstance(error, Damaged):
                        self.pool.losses.set(each.pack_id, PackDamage(unreadable=True))
                        self.unopened.append(each)
                    self.report(
                        Note(severity="error", path=os.fsencode(self.pool.where_pack(each.pack_id)), text=str(error))
                    )
                    continue
                each.is_hurt = each.pack_id in self.pool.losses.notes.packs
                mask = member_mask(self.live, _joined(ids)) & ~self.pool.losses.hurt_rows(each.pack_id, values)
                each.total_bytes = int(values[:, 2].sum(dtype=np.uint64))
                each.live_bytes = int(values[mask, 2].sum(dtype=np.uint64))
                bases += self._missing_bases(each, ids, values, mask)
                usable.append(each)
            if not bases:
                self.owners = np.full(len(self.live), NOBODY, np.int32)
                return usable
            self.live = as_sorted_ids(bytearray(self.live.tobytes()) + bases)

    def _missing_bases(self, each: _Pack, ids: Ids, values: Values, mask: npt.NDArray[np.bool_]) -> bytearray:
        found = bytearray()
        rows = np.flatnonzero(mask & (values[:, 3] == ENCODING_DELTA))
        if len(rows):
            reader = self.pool.open_pack(each.pack_id)
            try:
                for row in rows.tolist():
                    base = _read(reader, ids, values, row)[2]
                    if base is not None and not member_mask(self.live, np.frombuffer(base, "S32"))[0]:
                        found += base
            finally:
                reader.close()
        return found

    def _claim(self, each: _Pack) -> bytes:
        """Make this pack the owner of the live objects that no earlier one holds; return its dead metadata's ids."""
        ids, values = self._columns(each)
        rows = self._owned_rows(each, ids, values, NOBODY)
        self.owners[np.searchsorted(self.live, _joined(ids)[rows])] = each.number
        each.needed_count = len(rows)
        each.needed_bytes = int(values[rows, 2].sum(dtype=np.uint64))
        return self._dead_in(ids, values)

    def _owned_rows(self, each: _Pack, ids: Ids, values: Values, owner: int) -> npt.NDArray[np.intp]:
        """Return the rows of a pack's live objects that can be read and whose owner is `owner`."""
        joined = _joined(ids)
        rows = np.flatnonzero(member_mask(self.live, joined) & ~self.pool.losses.hurt_rows(each.pack_id, values))
        owned: npt.NDArray[np.intp] = rows[self.owners[np.searchsorted(self.live, joined[rows])] == owner]
        return owned

    def _dead_in(self, ids: Ids, values: Values) -> bytes:
        metadata = decode_kinds(values[:, 1]) != KIND_CHUNK
        dead = metadata & ~member_mask(self.live, _joined(ids))
        found: bytes = ids[dead].tobytes()
        return found

    def _dead_metadata(self, each: _Pack) -> bytes:
        return self._dead_in(*self._columns(each))

    def _still_named(self, expired: list[_Pack], dead_ids: list[bytes]) -> list[_Pack]:
        """Return the expired packs that hold what is named by objects that nobody knew to be dead before this run."""
        if not expired or self.grace_ns == 0:
            return []
        known = as_sorted_ids(self.pool.read_dead_objects())
        dead = np.frombuffer(b"".join(dead_ids), f"S{OBJECT_ID_BYTES}")
        named = PoolMarks(self.pool)
        ids = dead[~member_mask(known, dead)].tobytes()
        stack = [ids[at : at + OBJECT_ID_BYTES] for at in range(0, len(ids), OBJECT_ID_BYTES)]
        while stack:
            try:
                below = list(references(*self.pool.get_kind(stack.pop())))
            except (NotFound, Damaged):
                continue  # a revision that came without its tree has nothing below it, what is damaged nobody can use
            column = np.array([identity for _, identity in below], f"S{OBJECT_ID_BYTES}")
            for row in np.flatnonzero(~member_mask(self.live, column)).tolist():
                kind, identity = below[row]
                if named.add(identity) and kind != KIND_CHUNK:
                    stack.append(identity)
        return [each for each in expired if bool(named.holds(self._columns(each)[0]).any())]

    def _rewrite(self, packs: list[_Pack]) -> None:
        """Copy what is needed of these packs into new ones, durable and indexed."""
        writer = PoolWriter(self.pool, locked=False)
        try:
            for number, each in enumerate(packs):
                self.report(Progress(phase="rewrite", done_count=number, total_count=len(packs)))
                ids, values = self._columns(each)
                rows = self._owned_rows(each, ids, values, each.number)
                order = np.lexsort((decode_offsets(values[rows, 1]), values[rows, 0]))
                # A reader of our own: one that the pool keeps open would keep the room of the pack when it is deleted.
                with self.pool.open_pack(each.pack_id) as reader:
                    for row in rows[order].tolist():
                        identity = ObjectId(ids[row].tobytes())
                        try:
                            kind, payload = reader.get_kind(identity)
                        except (NotFound, Damaged):  # a delta's base lies elsewhere, or another copy has to serve
                            kind, payload = self.pool.get_kind(identity)
                        writer.store_copy(kind, identity, payload)
            writer.close()
        except BaseException:
            writer.abandon()
            raise

    def _put(self, name: str, data: bytes) -> None:
        """Store a value that must be there before something can go."""
        self.pool.backend.making_room(lambda: self.pool.backend.put(name, data))

    def _write_dead_objects(self, dead_objects: bytes) -> None:
        if dead_objects != self.pool.read_dead_objects():
            self._put(DEAD_OBJECTS, dead_objects)

    def _settle_damage(self) -> None:
        """Forget what was lost once nothing that is needed is missing; else what rests on it and is not needed."""
        pool = self.pool
        if not self.missing_count:
            if pool.losses.notes or pool.backend.has(UNSOUND):
                pool.losses.forget(each for each in pool.losses.notes.packs if pool.has_pack(each))
            return
        unsound = np.frombuffer(pool.read_unsound(), f"S{OBJECT_ID_BYTES}")
        needed = member_mask(self.live, unsound)
        if not needed.all() and not pool.is_damage_new:
            pool.losses.write_unsound(unsound[needed].tobytes())

    def _sweep(self, condemned_since: dict[PackId, int]) -> None:
        """Remove what killed runs and killed writers left: verdicts on packs that are gone, files never finished."""
        backend = self.pool.backend
        for pack_id in condemned_since:
            if not self.pool.has_pack(pack_id):
                backend.discard(_condemned_name(pack_id), lasting=False)
        before_ns = self.now_ns - max(self.grace_ns, PARTIAL_GRACE_NS)
        for prefix in ("", PACKS + "/", REFS, CONDEMNED + "/"):
            # Without grace we hold the writers' lock, so a pack in the making has no maker any more.
            backend.sweep(prefix, before_ns=None if self.grace_ns == 0 and prefix == PACKS + "/" else before_ns)
        for name, suffixes in (("index", (PARTIAL_SUFFIX,)), (UPLOADS, (PARTIAL_SUFFIX, JOINED_SUFFIX))):
            for suffix in suffixes:
                remove_older(backend.scratch(name), "*" + suffix, before_ns=before_ns)


def _condemned_name(pack_id: PackId) -> str:
    return f"{CONDEMNED}/{pack_id.hex()}"


def _joined(ids: Ids) -> npt.NDArray[np.bytes_]:
    return np.ascontiguousarray(ids).view(f"S{OBJECT_ID_BYTES}").reshape(-1)


def _read(reader: PackReader, ids: Ids, values: Values, row: int) -> tuple[int, bytes, bytes | None]:
    block_index, where = int(values[row, 0]), decode_place(int(values[row, 1]))[0]
    return read_record(reader.cached_block(block_index), where, ids[row].tobytes())
